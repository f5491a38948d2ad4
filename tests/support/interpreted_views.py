"""Makes views by the kernels for GPUs in Triton's interpreter, to be started with TRITON_INTERPRET=1.

    python -m support.interpreted_views CASES RESULTS

CASES: a list of (name of the function, its arguments) as torch saved it; RESULTS: the views, in the same order.
"""

import sys

import torch

from dist_rmd.data.augment import views_triton

cases = torch.load(sys.argv[1], weights_only=True)
torch.save([getattr(views_triton, name)(*arguments) for name, arguments in cases], sys.argv[2])
