"""The renderer behind `rooms`: surfaces, a vectorised ray caster, light, a camera's sensor.

World frame: x east, y north, z up, metres; the floor's south-west corner is the origin.
Camera frame: x right, y down, z forward. A ray is forward + X right + Y down, so its parameter at a
hit *is* the depth along the optical axis.
"""
