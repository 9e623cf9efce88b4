"""ESPnet's stages from the pip package alone, under the names of asr.sh.

May import: all but the comparison and the commands.
"""
