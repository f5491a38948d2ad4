"""RMDNet plugged into ELR: early-learning regularisation, with the relations of a teacher."""

from collections.abc import Mapping
from typing import ClassVar

from dist_rmd.stages.elr import ELR
from dist_rmd.stages.rgrl import Related, RelationConfig

__all__ = ["RelatedELR"]


class RelatedELR(Related, ELR):
    """L = ELR's loss, with its memory of a target for each image, + K (node ||M - I||_F + edge ||E_t - E_s||_F)."""

    sections: ClassVar[Mapping[str, type]] = {**ELR.sections, "relation": RelationConfig}
