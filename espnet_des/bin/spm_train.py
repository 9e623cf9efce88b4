"""sentencepiece's spm_train, which its pip package does not bring."""

import sys

import sentencepiece

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(f"{__doc__}\n\nAll options are sentencepiece's own, such as --input=FILE.")
        sys.exit()
    options = (a.removeprefix("--").partition("=") for a in sys.argv[1:])
    sentencepiece.SentencePieceTrainer.train(**{name: value for name, _, value in options})
