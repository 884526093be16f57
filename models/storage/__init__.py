"""Files that survive a crash: the disk, how a file is replaced, and who may write in a folder."""
