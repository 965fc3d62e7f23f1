static __always_inline void decide(const struct table *t, struct work *w){ w->verdict.effect=EFFECT_DENY; w->verdict.rank=NONE; w->verdict.marks=0;}
