/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A part of table.h: what is left to check of a pattern when one of its parts was found (step 6.2). */
#ifndef AGENTWALL_TABLE_CHECK_H
#define AGENTWALL_TABLE_CHECK_H

/* Whether a part is among the members of a list; 2: there is no room for so many. */
__noinline int table_among(const struct table *t, __u32 list, __u32 part)
{
	__u32 i, n;

	if (!t)
		return 0;
	n = length(t, list);
	for (i = 0; i < MAX_MEMBERS; i++) {
		if (i >= n)
			return 0;
		if (at(t, list + 1ull + i) == part)
			return 1;
	}
	return n > MAX_MEMBERS ? 2 : 0;
}

/* Whether a part stands in the members of a collected set. */
__noinline int table_has(const struct table *t, struct work *w, __u32 members, __u32 part)
{
	__u32 i;
	int found;

	if (!t || !w)
		return 0;
	for (i = 0; i < MAX_SETS; i++) {
		if (i >= w->set_count)
			break;
		found = table_among(t, at(t, members + 1ull + w->sets[i]) & ~PRIVATE, part);
		if (found == 2)
			w->verdict.full = 1;
		if (found)
			return found == 1;
	}
	return 0;
}

/* The `/` among the next 64 bytes of the text. */
__noinline int table_count_slashes(struct work *w, __u32 from)
{
	__u64 x, left, pos, count = 0, zero;
	__u32 i;

	if (!w || from >= w->len)
		return 0;
	zero = w->zero;
	left = w->len - from;
	pos = w->start + from;
	for (i = 0; i < 8; i++) {
		forget(left, zero);
		forget(count, zero);
		x = eight(w, pos + 8 * i, false) ^ ('/' * ONES);
		/* The highest bit of every byte that is 0; none is carried over. */
		x = ~(((x & ~HIGHS) + ~HIGHS) | x) & HIGHS;
		if (left <= 8) {
			x &= ~0ull >> (64 - 8 * left & 63);
			return count + ((x >> 7) * ONES >> 56);
		}
		count += (x >> 7) * ONES >> 56;
		left -= 8;
	}
	return count;
}

static __always_inline __u32 slashes(struct work *w)
{
	__u32 i, count = 0, done = 0;

	if (w->slashes != NONE)
		return w->slashes;
	for (i = 0; i < TEXT_ROOM / 64; i++) {
		if (!w->has_text || done >= w->len)
			break;
		count += table_count_slashes(w, done);
		done += 64;
	}
	w->slashes = count;
	return count;
}

/* Compares leading single bytes of a line; how many are the same. The rest are others, or no bytes. */
__noinline int table_line_front(const struct table *t, struct work *w, __u32 from, __u32 done)
{
	__u32 i, step;

	if (!t || !w)
		return 0;
	for (i = 0; i < LINE_FRONT; i++) {
		if (done + i >= w->steps || done + i >= w->len)
			break;
		step = at(t, from + (__u64)done + i);
		if (step != w->text[(w->start + done + i) & TEXT_MASK])
			break;
	}
	return i;
}

/* What a step of a line says to a byte. */
enum { GOES = 1, STAYS = 2, SKIPS = 4 /* to the next but one */, JOINS = 8 /* the next is there too */, MATCHED = 16 };

__noinline int table_step(const struct table *t, struct work *w, __u32 step, __u32 byte)
{
	__u32 set, in;

	if (!t || !w)
		return 0;
	if (step < SET)
		return step == byte ? GOES : 0;
	if (step < DIRS_OPEN) {
		set = step - (step < LOOP ? SET : LOOP);
		in = at(t, at(t, BYTE_SETS) + 8ull * set + (byte & 255) / 32) >> (byte & 31) & 1;
		if (step < LOOP)
			return in ? GOES : 0;
		return in ? STAYS | JOINS : JOINS;
	}
	if (!w->left)
		return w->question.directory && step >= BELOW_OPEN ? MATCHED : 0;
	if (step == DIRS_LOOP)
		return byte == '/' ? STAYS | GOES : STAYS;
	if (step == BELOW_FIRST)
		return GOES;
	if (byte != '/')
		return 0;
	return step == DIRS_OPEN ? GOES | SKIPS : GOES;
}

/*
 * One word of states of a line, for one byte of the text or, when there is none any more, for its end.
 * A state behind a loop is taken up when the loop is, so that nothing is added in advance.
 */
static long line_word(__u32 i, struct both *both)
{
	const struct table *t = both->t;
	struct work *w = both->w;
	__u64 bits, own = 0, above = 0, beside = 0, word = w->word, side = w->side & 1, zero = w->zero;
	__u32 byte, k, ended = !w->left;

	(void)i;
	if (word >= LINE_WORDS || !w->budget) {
		w->verdict.full = 1;
		return 1;
	}
	w->budget--;
	bits = w->states[side][word];
	byte = w->text[w->at & TEXT_MASK];
	for (k = 0; k < LINE_STATES; k++) {
		__u64 low, state, says;

		forget(bits, zero);
		forget(own, zero);
		forget(above, zero);
		forget(beside, zero);
		if (!bits)
			break;
		low = bits & -bits;
		bits ^= low;
		state = word * 64 + place_of(low);
		if (state >= w->steps) {
			w->matched |= ended;
			bits = 0;
			break;
		}
		says = (__u32)table_step(t, w, at(t, w->line + state), byte);
		bits |= (low & -(says >> 3 & 1)) << 1;
		beside |= low >> 63 & says >> 3;
		own |= (low & -(says >> 1 & 1)) | (low & -(says & 1)) << 1 | (low & -(says >> 2 & 1)) << 2;
		above |= (low >> 63 & says) | (low & -(says >> 2 & 1)) >> 62;
		w->matched |= says >> 4 & 1;
	}
	w->states[side][word] = bits;
	w->states[side ^ 1][word] |= own;
	w->alive |= (own | above) != 0;
	if (word < LINE_WORDS - 1) {
		w->states[side ^ 1][word + 1] |= above;
		w->states[side][word + 1] |= beside;
	}
	if (bits)
		return 0;
	word++;
	w->word = word;
	if (word <= w->steps / 64)
		return 0;
	if (ended || !w->alive)
		return 1;
	w->word = 0;
	w->side = side ^ 1;
	w->alive = 0;
	w->at++;
	w->left--;
	return 0;
}

/* Puts the walk of a line behind its leading bytes; 0 if it does not match, or there is no room. */
__noinline int table_line_begin(const struct table *t, struct work *w, __u32 line)
{
	__u32 i, same = 0, more;

	if (!t || !w || !w->has_text)
		return 0;
	w->steps = length(t, line);
	w->line = line + 1;
	for (i = 0; i < TEXT_ROOM / LINE_FRONT + 1; i++) {
		more = table_line_front(t, w, line + 1, same);
		same += more;
		if (more != LINE_FRONT)
			break;
	}
	w->line += same;
	w->steps -= same;
	w->at = w->start + same;
	w->left = w->len - same;
	/* Most texts differ here. */
	if (w->steps && at(t, w->line) < SET)
		return 0;
	if (w->steps >= LINE_WORDS * 64) {
		w->verdict.full = 1;
		return 0;
	}
	for (i = 0; i < LINE_WORDS; i++) {
		if (i > w->steps / 64)
			break;
		w->states[0][i] = 0;
		w->states[1][i] = 0;
	}
	w->states[0][0] = 1;
	w->word = w->side = w->alive = w->matched = 0;
	return 1;
}

/* Whether a check holds. */
__noinline int table_holds(const struct table *t, struct work *w, __u32 plane, __u32 check)
{
	struct both both = { t, w, plane };
	__u32 n, i, members, line, least;

	if (!t || !w)
		return 0;
	n = length(t, check);
	members = at(t, plane + (__u64)F_MEMBERS);
	if (n < 2)
		return 1;
	if (n > MAX_PARTS + 2)
		w->verdict.full = 1;
	for (i = 2; i < MAX_PARTS + 2; i++) {
		if (i >= n)
			break;
		if (!table_has(t, w, members, at(t, check + 1ull + i)))
			return 0;
	}
	least = at(t, check + 1ull);
	if (least && slashes(w) < least)
		return 0;
	line = at(t, check + 2ull);
	if (!line)
		return 1;
	if (!table_line_begin(t, w, line))
		return 0;
	bpf_loop(LINE_BUDGET, line_word, &both, 0);
	return w->matched && !w->verdict.full;
}

#endif
