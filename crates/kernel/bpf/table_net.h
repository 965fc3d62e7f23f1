/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A part of table.h: what an endpoint has by its port and address (steps 2 and 4 of the decision). */
#ifndef AGENTWALL_TABLE_NET_H
#define AGENTWALL_TABLE_NET_H

#define RANGE_STEPS 21 /* a list has fewer than 2^20 members */

/* Segment `i` of an IPv6 address. */
#define SEGMENT(a, i) ((__u32)(a)[2 * (i)] << 8 | (a)[2 * (i) + 1])

/* Word `i` of an address, as a number. */
static __always_inline __u32 address_word(const struct work *w, int i)
{
	const __u8 *a = w->question.address;

	return (__u32)a[4 * i] << 24 | (__u32)a[4 * i + 1] << 16 | (__u32)a[4 * i + 2] << 8 | a[4 * i + 3];
}

static __always_inline bool is_loopback(const struct work *w)
{
	if (w->question.address_len == 4)
		return w->question.address[0] == 127;
	return w->question.address_len == 16 && !address_word(w, 0) && !address_word(w, 1) &&
	       !address_word(w, 2) && address_word(w, 3) == 1;
}

/* Step 2, for an endpoint; 0: not decided. */
static __always_inline int table_name(struct work *w)
{
	if (w->has_text)
		return w->question.address_len != 0;
	if (is_loopback(w)) {
		__builtin_memcpy(w->text, "localhost", 9);
		w->has_text = 1;
		w->start = 0;
		w->len = 9;
	}
	return 1;
}

/* The set of the range a number of one word is in: the greatest beginning that is not above it. */
__noinline int table_narrow(const struct table *t, struct work *w, __u32 list, __u32 number)
{
	__u32 n, low = 0, high, middle, step, zero;

	if (!t || !w)
		return 0;
	zero = w->zero;
	high = n = length(t, list) / 2;
	for (step = 0; step < RANGE_STEPS; step++) {
		forget(low, zero);
		forget(high, zero);
		if (low >= high)
			break;
		middle = low + (high - low) / 2;
		if (at(t, list + 1ull + middle) > number)
			high = middle;
		else
			low = middle + 1;
	}
	return low ? at(t, list + (__u64)n + low) : 0;
}

/* Whether the beginning at an offset is above the question's address. */
static __always_inline bool is_above(const struct table *t, const struct work *w, __u64 offset)
{
	int i;

	for (i = 0; i < 4; i++) {
		__u32 begin = at(t, offset + i), own = address_word(w, i);

		if (begin != own)
			return begin > own;
	}
	return false;
}

/* The set of the range that the question's IPv6 address is in. */
__noinline int table_wide(const struct table *t, struct work *w, __u32 list)
{
	__u32 n, low = 0, high, middle, step, zero;

	if (!t || !w)
		return 0;
	zero = w->zero;
	high = n = length(t, list) / 5;
	for (step = 0; step < RANGE_STEPS; step++) {
		forget(low, zero);
		forget(high, zero);
		if (low >= high)
			break;
		middle = low + (high - low) / 2;
		if (is_above(t, w, list + 1ull + 4ull * middle))
			high = middle;
		else
			low = middle + 1;
	}
	return low ? at(t, list + 4ull * n + low) : 0;
}

/* Adds a set of an address; whether it is private. */
__noinline int table_address_set(const struct table *t, struct work *w, __u32 members, __u32 set)
{
	if (!t || !w)
		return 0;
	table_add_set(w, set);
	return (at(t, members + 1ull + set) & PRIVATE) != 0;
}

/* The same for an IPv4 address inside the question's IPv6 address. */
static __always_inline int wrapped(const struct table *t, struct work *w, __u32 plane, __u32 members,
				   __u32 number)
{
	__u32 list = at(t, plane + (__u64)F_WRAPPED);

	return table_address_set(t, w, members, table_narrow(t, w, list, number));
}

/* Step 4. */
__noinline int table_endpoint(const struct table *t, struct work *w, __u32 plane)
{
	__u32 members, port, words[4], private = 0, four;
	const __u8 *a;
	int i;

	if (!t || !w)
		return 0;
	port = at(t, plane + (__u64)(w->question.protocol == 6 ? F_TCP : F_UDP));
	table_add_set(w, table_narrow(t, w, port, w->question.port));
	if (!w->question.address_len)
		return 0;
	members = at(t, plane + (__u64)F_MEMBERS);
	a = w->question.address;
	for (i = 0; i < 4; i++)
		words[i] = address_word(w, i);
	four = w->question.address_len == 4;
	if (!four && !words[0] && !words[1] && words[2] == 0xffff) {
		/* Mapped: not canonical, but plain. */
		words[0] = words[3];
		four = 1;
	}
	if (four) {
		__u32 list = at(t, plane + (__u64)F_V4);

		private = table_address_set(t, w, members, table_narrow(t, w, list, words[0]));
	} else {
		__u32 list = at(t, plane + (__u64)F_V6);

		private = table_address_set(t, w, members, table_wide(t, w, list));
		if (words[0] == 0x0064ff9b && !words[1] && !words[2]) {
			private |= wrapped(t, w, plane, members, words[3]);
		} else if (SEGMENT(a, 0) == 0x2002) {
			private |= wrapped(t, w, plane, members, SEGMENT(a, 1) << 16 | SEGMENT(a, 2));
		} else if (words[0] == 0x20010000) {
			private |= wrapped(t, w, plane, members, words[1]);
			private |= wrapped(t, w, plane, members, ~words[3]);
		} else if (!words[0] && !words[1] && !words[2]) {
			private |= wrapped(t, w, plane, members, words[3]);
		}
		if ((words[2] & 0xfdffffff) == 0x5efe)
			private |= wrapped(t, w, plane, members, words[3]);
	}
	if (!private)
		table_add_set(w, at(t, plane + (__u64)F_PUBLIC));
	return 0;
}

#endif
