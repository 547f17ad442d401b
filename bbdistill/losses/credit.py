"""Credit per token: a reward says which way a completion goes, evidence says which of its tokens matter."""

import torch
from torch import Tensor


def token_credit(direction: Tensor, magnitude: Tensor, mask: Tensor, *, limit: float | None = None) -> Tensor:
    """Advantages (B, T): `direction` (B,) times `magnitude` (B, T), scaled to a mean of 1 where a row's `mask` is 1.

    No token's sign differs from its row's, and a row's credit in total is what it was: direction times tokens. A row
    whose magnitudes are all 0 gives every token the same. The result is 0 on padding and has no gradient.

    `limit`, from 0 to 1, first clips the magnitudes to 1 - limit .. 1 + limit, so that no token gets more than
    (1 + limit) / (1 - limit) times another's credit. It is for magnitudes that are 1 where nothing speaks for or
    against a token, as are the ratios exp(sign(A) * log(pi_informed / pi)) of RLSD (arXiv 2604.03128). They are clipped
    before they are scaled, as they are there: one huge ratio would otherwise press all others below the lower limit.
    RLSD does not scale, and so also changes how much a completion counts in total.
    """
    active = mask > 0
    found = torch.where(active, magnitude.detach(), 0.0)
    assert bool((found >= 0).all()), f"a magnitude is negative or nan: {found.min()=}"
    if limit is not None:
        assert 0 <= limit <= 1, f"{limit=} is not from 0 to 1"
        found = torch.where(active, found.clamp(1 - limit, 1 + limit), 0.0)
    total = found.sum(1, keepdim=True)  # (B, 1)
    assert bool(total.isfinite().all()), f"magnitudes are infinite, and there is no limit: {found.max()=}"
    count = active.sum(1, keepdim=True)
    scaled = torch.where(total > 0, found * count / total.where(total > 0, 1.0), active.to(found.dtype))
    return direction.unsqueeze(1) * scaled
