"""Kinds of teachers that are no PyTorch network, a file each: a module of this folder is a kind.

A module has a class of ``harness.teachers.black_box.BlackBoxTeacher`` for ``Task.teacher()``. Where such a teacher can
be in a file, it has ``recognizes(path)``, whether ``--teacher PATH`` is one, and ``load(path, names)``, which gives the
teacher; ``names`` are those of the classes.
"""
