"""What sizes cost on a machine, as tables and pictures.

May import: all but the recipes, their comparison and the commands.
"""
