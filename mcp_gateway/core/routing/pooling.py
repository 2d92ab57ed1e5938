"""One cell's outcomes of many accounts put together, so that no account has more than a tenth of the weight. Pure.

Otherwise one account that scores at will could move what all the others are served by.
"""

from collections.abc import Collection, Sequence

from mcp_gateway.core.routing.quality import Outcomes

_MOST_SHARE = 10
"""An account has one part in so many at most."""


def pooled(imported: Outcomes, by_account: Collection[Outcomes]) -> Outcomes:
    """With what the operator brought, which counts whole. Fewer than ten accounts alone come to nothing."""
    scored = [one for one in by_account if one.trials > 0]
    cap = _cap_for(imported.trials, sorted(one.trials for one in scored))
    parts = [min(1.0, cap / one.trials) for one in scored]
    return Outcomes(
        imported.score + sum(part * one.score for part, one in zip(parts, scored, strict=True)),
        imported.trials + sum(part * one.trials for part, one in zip(parts, scored, strict=True)),
    )


def _cap_for(imported: float, trials: Sequence[float]) -> float:
    """The most outcomes of one account that are a tenth of all that then count; `trials` stand by size.

    So many of the largest are cut to the cap: it is a tenth of the others' outcomes and of theirs, which are the cap
    each. The first number for which nobody else exceeds it is right.
    """
    if not trials or imported + sum(trials) >= _MOST_SHARE * trials[-1]:
        return trials[-1] if trials else 0.0
    for cut in range(1, min(_MOST_SHARE, len(trials) + 1)):
        others = trials[:-cut]
        cap = (imported + sum(others)) / (_MOST_SHARE - cut)
        if not others or cap >= others[-1]:
            return cap
    return 0.0
