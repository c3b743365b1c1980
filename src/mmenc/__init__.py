"""mmenc: pretraining modern multilingual encoders as a pipeline that anyone can run.

OpenMP's threads sleep while they wait. By default they spin, and where another process needs a core each of thousands of
small products a step waits for a time slice: on two cores with a load of 13 a product took 8 to 17 times as long as with
sleeping threads, on idle cores no less (docs/log.md). It must be set before torch is loaded; a user's own setting stays.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
