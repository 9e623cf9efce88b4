"""An exported size as a folder that an unmodified sherpa-onnx recognises speech with.

Its recogniser for Omnilingual ASR's CTC models takes raw samples, as an export does.

May import: what deploy may.
"""
