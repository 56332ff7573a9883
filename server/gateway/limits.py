"""Which limits hold for a tenant on the road to an upstream. Pure."""

from server.catalog.catalog import Catalog
from server.domain.spending import Limit, Purse


def limits_of(catalog: Catalog, upstream: str, tenant: str) -> tuple[Limit, ...]:
    """Every limit that holds for ``tenant`` on the road to ``upstream``."""
    budget = catalog.policy(tenant).budget
    money = catalog.prices.upstreams.get(upstream)
    wanted = (
        (Purse("", upstream), None if money is None else money.monthly_budget_usd, None),
        (Purse(tenant, ""), budget.monthly_usd, budget.webhook),
        (Purse(tenant, upstream), budget.per_upstream.get(upstream), budget.webhook),
    )
    return tuple(Limit(purse, usd, webhook) for purse, usd, webhook in wanted if usd is not None)
