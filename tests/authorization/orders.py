"""The service that the tests guard."""

from tailrace import Context, Service

svc = Service("orders")


@svc.tool
async def look(ctx: Context) -> str:
    """Who asks."""
    return ctx.principal


@svc.tool(scopes="orders:write")
async def place(ctx: Context) -> str:
    """Who orders, and by which program."""
    assert ctx.access is not None
    return f"{ctx.principal} by {ctx.access.client_id}"
