"""Small tools that know nothing of speech recognition: files, audio, processes, progress.

May import: errors, espnet_api.
"""
