"""Synthetic pictures of the manual alphabet: a 3-D hand, posed, lit and photographed.

hand        skeleton: joints, bone lengths of a person, forward kinematics
poses       the 26 letters as joint angles, and signs that are no letter
body        flesh: rounded cones around the bones
view        where the camera stands, and what it sees where
raster      from cones to the surface a viewer sees
shading     light and colour on that surface
background  what stands behind the hand
camera      from light to the bytes of a photo
scene       one picture: all of the above, drawn at random, and the truth about it
generate    a data set in the layout of Lexset's "Synthetic ASL Alphabet"
"""

from fingerspell.rendering.generate import render_dataset
from fingerspell.rendering.scene import render_blank, render_letter

__all__ = ["render_blank", "render_dataset", "render_letter"]
