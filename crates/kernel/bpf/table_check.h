/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* A part of table.h: what is left to check of a pattern when one of its parts was found (step 6.2). */
#ifndef AGENTWALL_TABLE_CHECK_H
#define AGENTWALL_TABLE_CHECK_H

/* Whether a part is among the next members of a list. */
__noinline int table_among(const struct table *t, __u32 from, __u32 n, __u32 part)
{
	__u32 i;

	if (!t)
		return 0;
	for (i = 0; i < MEMBERS_AT_ONCE; i++) {
		if (i >= n)
			break;
		if (at(t, from + (__u64)i) == part)
			return 1;
	}
	return 0;
}

/* Whether a part stands in the members of a collected set. */
__noinline int table_has(const struct table *t, struct work *w, __u32 members, __u32 part)
{
	__u32 set = 0, left = 0, from = 0, zero, i;

	if (!t || !w)
		return 0;
	zero = w->zero;
	for (i = 0; i < MAX_MEMBERS; i++) {
		forget(set, zero);
		forget(left, zero);
		forget(from, zero);
		if (!left) {
			__u32 list;

			if (set >= w->set_count || set >= MAX_SETS)
				return 0;
			list = at(t, members + 1ull + w->sets[set]) & ~PRIVATE;
			left = length(t, list);
			from = list + 1;
			set++;
		}
		if (left && table_among(t, from, left, part))
			return 1;
		from += MEMBERS_AT_ONCE;
		left -= left < MEMBERS_AT_ONCE ? left : MEMBERS_AT_ONCE;
	}
	w->verdict.full = 1;
	return 0;
}

/* The `/` among up to 64 bytes of the text. */
__noinline int table_count_slashes(struct work *w, __u32 pos, __u32 left)
{
	__u32 i, count = 0;

	if (!w)
		return 0;
	for (i = 0; i < 64; i++) {
		if (i >= left)
			break;
		count += w->text[(pos + i) & TEXT_MASK] == '/';
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
		count += table_count_slashes(w, w->start + done, w->len - done);
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

/*
 * One word of states of a line, for one byte of the text or, when there is none any more, for its end.
 * A state behind a loop is taken up when the loop is, so that nothing is added in advance.
 */
static long line_word(__u32 i, struct both *both)
{
	const struct table *t = both->t;
	struct work *w = both->w;
	__u64 bits, own = 0, above = 0, beside = 0, word = w->word, side = w->side & 1, zero = w->zero;
	__u32 byte, sets, k, ended = !w->left;

	(void)i;
	if (word >= LINE_WORDS || !w->budget) {
		w->verdict.full = 1;
		return 1;
	}
	w->budget--;
	bits = w->states[side][word];
	w->states[side][word] = 0;
	byte = w->text[w->at & TEXT_MASK];
	sets = at(t, BYTE_SETS) + byte / 32;
	for (k = 0; k < 64; k++) {
		__u64 low, state, stays = 0, goes = 0;
		__u32 step;

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
			break;
		}
		step = at(t, w->line + state);
		if (step < SET) {
			goes = step == byte;
		} else if (step < DIRS_OPEN) {
			__u32 set = step - (step < LOOP ? SET : LOOP);
			__u64 in = at(t, sets + 8ull * set) >> (byte & 31) & 1;

			if (step < LOOP) {
				goes = in;
			} else {
				stays = in;
				/* The next state is there without a byte. */
				bits |= low << 1;
				beside |= low >> 63;
			}
		} else if (ended) {
			w->matched |= w->question.directory && step >= BELOW_OPEN;
		} else {
			stays = step == DIRS_LOOP;
			goes = step == BELOW_FIRST || byte == '/';
			if (step == DIRS_OPEN && goes) {
				own |= low << 2;
				above |= low >> 62;
			}
		}
		own |= (low & -stays) | (low & -goes) << 1;
		above |= low >> 63 & goes;
	}
	w->states[side ^ 1][word] |= own;
	w->alive |= (own | above) != 0;
	word++;
	if (word <= w->steps / 64) {
		if (word < LINE_WORDS) {
			w->states[side ^ 1][word] |= above;
			w->states[side][word] |= beside;
		}
		w->word = word;
		return 0;
	}
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
