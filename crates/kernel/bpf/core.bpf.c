/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The decision core outside of any hook, for BPF_PROG_TEST_RUN: tests and benchmark. User space fills
 * `asked`, runs `ask_all` with how many of its questions are to be asked, and reads the answers there.
 */
#include "table.h"

char LICENSE[] SEC("license") = "GPL";

/* Without types: 6.1 takes an inner map only if it has BTF as this one has, and the loader's has none. */
struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct table));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 8);
	__type(key, __u32);
	__array(values, struct inner);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct work);
} work SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ASKED);
	__type(key, __u32);
	__type(value, struct asked);
} asked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct times);
} times SEC(".maps");

/* One question to the table of its view, as a hook asks: the table is looked up once and asked whole. */
static long ask(__u32 i, struct ask_args *args)
{
	struct asked *asked_one;
	struct work *w;
	void *inner;
	struct table *t;
	__u32 zero = 0, index = i % args->questions, len;
	struct times *all;
	__u64 first, before, after;

	asked_one = bpf_map_lookup_elem(&asked, &index);
	w = bpf_map_lookup_elem(&work, &zero);
	all = bpf_map_lookup_elem(&times, &zero);
	if (!asked_one || !w || !all)
		return 1;
	w->question = asked_one->question;
	/* A part of it only where it begins at the front: the verifier knows no sums. */
	len = w->question.start || w->question.len > TEXT_ROOM ? TEXT_ROOM : w->question.len;
	if (bpf_probe_read_kernel(w->text, len, asked_one->text))
		return 1;
	first = bpf_ktime_get_ns();
	before = bpf_ktime_get_ns();
	inner = bpf_map_lookup_elem(&tables, &args->view);
	if (!inner)
		return 1;
	t = bpf_map_lookup_elem(inner, &zero);
	if (!t)
		return 1;
	decide(t, w);
	after = bpf_ktime_get_ns() - before;
	before -= first;
	all->decisions[after < MOST_NS ? after : MOST_NS - 1]++;
	all->clock[before < MOST_NS ? before : MOST_NS - 1]++;
	asked_one->verdict = w->verdict;
	asked_one->generation = (__u64)t->words[TABLE_GENERATION + 1] << 32 | t->words[TABLE_GENERATION];
	asked_one->count++;
	return 0;
}

SEC("syscall")
int ask_all(struct ask_args *args)
{
	struct ask_args own = *args;

	if (!own.questions || own.questions > ASKED)
		return -1;
	return bpf_loop(own.times, ask, &own, 0);
}
