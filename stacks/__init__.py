"""The stacks: their files, the typed settings read from them, and the commands that deploy and remove one."""
