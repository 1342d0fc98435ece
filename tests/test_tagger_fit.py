"""Claims about a tagger's calibration: where nothing can be told, what it says is how common a tag is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from internvl_detect.model.domain_tag import TAGS, DomainTagger
from internvl_detect.model.tagger_net import Shape, TaggerNet
from internvl_detect.train.tag_data import TagRow
from internvl_detect.train.tagger_fit import PRIOR, Looked, fit

SMALL = Shape(widths=(4, 8, 8, 16, 16), blocks=(0, 1, 1, 1), map_width=8)


@pytest.mark.parametrize("numbers", [(8, 8, 8, 8, 8), (40, 3, 7, 1, 20)])
def test_a_tagger_that_tells_nothing_says_the_prior_however_many_pictures_a_tag_has(numbers):
    torch.manual_seed(0)
    tagger = DomainTagger(TaggerNet(SMALL).eval(), device="cpu")
    nothing = np.log(np.full(len(TAGS), 1 / len(TAGS)))
    looked = [Looked(TagRow("", tag), nothing, None) for tag, n in zip(TAGS, numbers, strict=True) for _ in range(n)]
    fit(tagger, looked)
    said = torch.softmax(torch.tensor(tagger.bias) / tagger.temperature, 0)
    np.testing.assert_allclose(said, PRIOR, atol=0.02)
    assert sum(PRIOR) == pytest.approx(1) and PRIOR[0] == max(PRIOR)
