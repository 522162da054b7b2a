"""Cards: what a data set, a teacher, a student or a method is, one YAML file each.

YAML holds values, never code. A card is found in `--manifests DIR`, else in `./manifests`, else in
the copy that the wheel carries; the first that has it wins.
"""

from kdpipe.cards.data import DataCard
from kdpipe.cards.manifests import (
    Kind,
    card_folders,
    card_names,
    find_card,
    load_data,
    load_method,
    load_student_card,
    load_teacher_card,
    resolve_teacher,
)
from kdpipe.cards.method import Confidence, Join, MethodCard
from kdpipe.cards.networks import FitRecipe, StudentCard, TeacherCard

__all__ = [
    "Confidence",
    "DataCard",
    "FitRecipe",
    "Join",
    "Kind",
    "MethodCard",
    "StudentCard",
    "TeacherCard",
    "card_folders",
    "card_names",
    "find_card",
    "load_data",
    "load_method",
    "load_student_card",
    "load_teacher_card",
    "resolve_teacher",
]
