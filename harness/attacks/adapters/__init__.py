"""Attacks of other libraries, by the name of a class and its arguments: a file a library.

``adapter`` says what all of them have in common and ``arguments`` what a study may say of a class's
signature. To add a library: a ``Library`` with its class of ``Adapter``, and its line in ``ATTACKS``.
"""
