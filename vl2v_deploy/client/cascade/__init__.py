"""A student that asks a teacher where it is unsure; numpy, Pillow and the standard library only."""
