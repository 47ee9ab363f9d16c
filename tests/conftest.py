"""What every test shares."""

import matplotlib

matplotlib.use("agg")  # no test opens a window
