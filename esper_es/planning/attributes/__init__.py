"""Integers that modules keep about the sizes of their tensors: by class, or found by trying."""
