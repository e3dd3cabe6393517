"""The harness as a library: what ``import harness`` gives to other people's code.

``bound`` measures images, ``attack`` a network on images, and ``results`` opens finished studies as data
frames. They go through the same doors as a study, so the same numbers come out. docs/library.md says what is
promised of them.
"""
