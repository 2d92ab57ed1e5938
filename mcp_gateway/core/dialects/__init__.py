"""What backends speak: what each surface's request becomes, and what a backend's refusals and gauges mean."""
