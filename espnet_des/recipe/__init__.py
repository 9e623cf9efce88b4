"""ESPnet's stages from the pip package alone, under the names of asr.sh."""
