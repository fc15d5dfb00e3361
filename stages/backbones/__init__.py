"""The table of frozen bases, the files that hold their weights, and the engines that run them."""

import os

# The one place that quiets TensorFlow's C++ log; it is read when TensorFlow is first imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
