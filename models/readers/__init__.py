"""Readers of samples as people have them: tables, images, sound, and folders that grow."""
