/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A part of table.h: what an endpoint has by its port and address (steps 2 and 4 of the decision). */
#ifndef AGENTWALL_TABLE_NET_H
#define AGENTWALL_TABLE_NET_H

#define NARROW_STEPS 20 /* of n ranges, n + 1 places: a list has fewer than 2^20 words */
#define WIDE_STEPS 18

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

/* Whether a number of 32 bits is less than another, as 0 or 1, and without a way that forks. */
static __always_inline __u64 is_less(__u64 a, __u64 b)
{
	a -= b;
	opaque(a);
	return a >> 63;
}

/* The set of the range a number of one word is in: the greatest beginning that is not above it. */
__noinline int table_narrow(const struct table *t, struct work *w, __u32 list, __u32 number)
{
	__u64 n, low = 0, high, middle, above, zero;
	__u32 step;

	if (!t || !w)
		return 0;
	zero = w->zero;
	high = n = length(t, list) / 2;
	for (step = 0; step < NARROW_STEPS; step++) {
		forget(low, zero);
		forget(high, zero);
		if (low >= high)
			break;
		middle = low + (high - low) / 2;
		above = -is_less(number, at(t, list + 1ull + middle));
		opaque(above);
		high ^= (high ^ middle) & above;
		low ^= (low ^ (middle + 1)) & ~above;
	}
	return low ? at(t, list + n + low) : 0;
}

/* The same of 64 bits ("Hacker's Delight", section 2-12). */
static __always_inline __u64 is_less_long(__u64 a, __u64 b)
{
	__u64 less = (~a & b) | ((~a | b) & (a - b));

	opaque(less);
	return less >> 63;
}

static __always_inline __u64 two_words(const struct table *t, __u64 i)
{
	return (__u64)at(t, i) << 32 | at(t, i + 1);
}

/* The set of the range that the question's IPv6 address is in. */
__noinline int table_wide(const struct table *t, struct work *w, __u32 list)
{
	__u64 n, low = 0, high, middle, above, zero, own[2], begin[2], differ;
	__u32 step;

	if (!t || !w)
		return 0;
	zero = w->zero;
	own[0] = (__u64)address_word(w, 0) << 32 | address_word(w, 1);
	own[1] = (__u64)address_word(w, 2) << 32 | address_word(w, 3);
	high = n = length(t, list) / 5;
	for (step = 0; step < WIDE_STEPS; step++) {
		forget(low, zero);
		forget(high, zero);
		if (low >= high)
			break;
		middle = low + (high - low) / 2;
		begin[0] = two_words(t, list + 1ull + 4ull * middle);
		begin[1] = two_words(t, list + 3ull + 4ull * middle);
		/* The lower halves matter where the upper ones are the same. */
		differ = -(is_less_long(own[0], begin[0]) | is_less_long(begin[0], own[0]));
		above = (is_less_long(own[0], begin[0]) & differ) | (is_less_long(own[1], begin[1]) & ~differ);
		above = -above;
		opaque(above);
		high ^= (high ^ middle) & above;
		low ^= (low ^ (middle + 1)) & ~above;
	}
	return low ? at(t, list + 4 * n + low) : 0;
}

/* Adds a set of an address; whether it is private. */
__noinline int table_address_set(const struct table *t, struct work *w, __u32 members, __u32 set)
{
	if (!t || !w)
		return 0;
	add_set(w, set);
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
	add_set(w, table_narrow(t, w, port, w->question.port));
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
		add_set(w, at(t, plane + (__u64)F_PUBLIC));
	return 0;
}

#endif
