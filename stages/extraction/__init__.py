"""Computing rows with frozen bases: plans, engines, passes over images, Dask clusters."""
