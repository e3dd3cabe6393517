"""Visual imperceptible bounds: the paper's pipeline, in a wing a chapter.

Chhabra et al., "Attack Agnostic Adversarial Defense via Visual Imperceptible Bound", ICPR 2020.
"""
