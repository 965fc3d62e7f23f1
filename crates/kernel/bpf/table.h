/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The decision: a policy table (docs/policy-table.md) is asked where it lies, in a map. Section "The
 * decision" there numbers the steps that are named here.
 *
 * How it is cut follows from the verifier. A function that is not static is verified once, with unknown
 * arguments, however often and from however many loops it is called; so every loop is bounded, most
 * stand in a function of their own, and what goes on over calls lies in struct work, of which the
 * verifier knows nothing. Reads are masked or compared with the end of the table. Lines are the exception:
 * they may take thousands of rounds, which bpf_loop makes. decide() and what it calls are 5 frames.
 *
 * Nothing here relies on a table that was checked: a wrong one gives wrong answers, and ends. What does
 * not fit is `full`, and then not decided. Byte order is little-endian (as build.rs demands).
 */
#ifndef AGENTWALL_TABLE_H
#define AGENTWALL_TABLE_H

#include "abi.h"
#include <bpf/bpf_helpers.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bytes of a word are taken from its low end");

enum { VERBS = 22, PLANES = 4, BYTE_SETS = 3, DEFAULTS = 12 };
enum { F_SETS, F_LAYERS, F_CLASSES, F_VERBS, F_AUTOMATA, F_V4, F_V6, F_WRAPPED, F_TCP, F_UDP, F_LABELS,
       F_PUBLIC, F_MEMBERS, F_LEAVES, F_RULES };
/* Values of automata. */
#define PASSED 0x80000000u
#define WAITS 0x40000000u
#define RUN 0x20000000u
#define LEAF 0x10000000u
#define BASE 0x0fffffffu
/* Outcomes: one set alone. */
#define PASSED_ONLY 0x80000000u
#define ENDING_ONLY 0x40000000u
/* Leaves, candidates, members. */
#define ONE 0x80000000u
#define ITSELF 0x20000000u
#define CERTAIN 0x80000000u
#define CONDITIONAL 0x40000000u
#define RANK 0x00ffffffu
#define PRIVATE 0x80000000u
/* Steps of lines. */
#define SET 0x100u
#define LOOP 0x100000u
#define DIRS_OPEN 0x200000u
#define DIRS_LOOP 0x200001u
#define BELOW_OPEN 0x200002u
#define BELOW_FIRST 0x200003u

#define AUTOMATON_HEAD 67
#define WALK_FRONT 0
#define WALK_BACK 1

/* Bounds; each is beyond what the compiler makes, or ends in `full`. */
#define MAX_LAYERS 3
#define MAX_AUTOMATA 32
#define WALK_STEPS 24 /* in one call */
#define WALK_CALLS (2 * TEXT_ROOM / WALK_STEPS + 1)
#define RUN_WORDS 66 /* of 8 bytes; the compiler's runs have at most 512 bytes */
#define MAX_PARTS 64 /* of a check */
#define MAX_MEMBERS 128 /* parts of a set that checks ask for */
#define MAX_CHECKS 65536 /* of a layer */
#define LINE_FRONT 32 /* leading bytes of a line in one call */
#define LINE_STATES 16 /* looked at in one call */
#define LINE_BUDGET (64 / LINE_STATES * (TEXT_ROOM + 1) * LINE_WORDS) /* any one line can be walked to its end */

#define ONES 0x0101010101010101ull
#define HIGHS 0x8080808080808080ull

/* Keeps the compiler from reasoning about a value over a check that the verifier has to see. */
#define opaque(x) asm volatile("" : "+r"(x))

/*
 * Makes a value one that the verifier knows nothing of, by a zero of which it knows nothing. A loop whose
 * rounds all begin alike is verified round by round, instead of way by way.
 */
#define forget(x, zero) asm volatile("%0 ^= %1" : "+r"(x) : "r"(zero))

static __always_inline __u32 at(const struct table *t, __u64 i)
{
	return t->words[i & TABLE_MASK];
}

/* The length of the list at an offset; its members begin one word behind. */
static __always_inline __u32 length(const struct table *t, __u32 list)
{
	/* No way that forks. */
	return at(t, list) & (__u64)(-(__s64)list >> 63);
}

/* Eight bytes of a text from `pos` on, or back from it; the nearest is in the low byte. */
static __always_inline __u64 eight(const struct work *w, __u64 pos, const bool back)
{
	const __u8 *from = (const __u8 *)w + __builtin_offsetof(struct work, text);

	/* Before the text is the rest of struct work: what is read too much stays inside it. */
	if (back)
		return __builtin_bswap64(*(const __u64 *)(from + (pos & TEXT_MASK) - 7));
	return *(const __u64 *)(from + (pos & TEXT_MASK));
}

/* Which of eight bytes has the lowest bit that is set; H. S. Warren, "Hacker's Delight", chapter 6. */
static __always_inline __u64 byte_of_lowest(__u64 bits)
{
	return ((((bits & -bits) - 1) & HIGHS) >> 7) * ONES >> 56;
}

/* Which bit is the only one that is set: the number of those below it. */
static __always_inline __u64 place_of(__u64 bit)
{
	__u64 n = bit - 1;

	n -= n >> 1 & 0x5555555555555555ull;
	n = (n & 0x3333333333333333ull) + (n >> 2 & 0x3333333333333333ull);
	n = (n + (n >> 4)) & 0x0f0f0f0f0f0f0f0full;
	return n * ONES >> 56;
}

/* What a callback of bpf_loop is given. */
struct both {
	const struct table *t;
	struct work *w;
	__u32 plane;
};

static __always_inline void add_set(struct work *w, __u32 set)
{
	__u64 n = w->set_count, last = n - 1;

	opaque(last); /* else the bound is checked on one register and another is used */
	if (!set || (last < MAX_SETS && w->sets[last] == set))
		return;
	if (n >= MAX_SETS) {
		w->verdict.full = 1;
		return;
	}
	w->sets[n] = set;
	w->set_count = n + 1;
}

/* One of the three sets of a state's outcome: 0 passed, 1 ending, 2 directory. */
static __always_inline __u32 outcome(const struct table *t, __u32 a, __u32 v, __u32 which)
{
	__u64 cell;
	__u32 said;

	cell = a + AUTOMATON_HEAD + 2ull * ((v & BASE) + 1 + at(t, a + 64ull));
	if (at(t, cell) != (v & BASE))
		return 0;
	said = at(t, cell + 1);
	if (!(said & (PASSED_ONLY | ENDING_ONLY)))
		return at(t, said + 1ull + which);
	return which == (said & PASSED_ONLY ? 0 : 1) ? said & ~(PASSED_ONLY | ENDING_ONLY) : 0;
}

/* How many bytes of a run the text has, up to all of them; at most `left`. */
static __always_inline int same_bytes(const struct table *t, struct work *w, __u32 run, const bool back)
{
	__u64 n = at(t, run + 3ull), left = w->left, pos = w->at, same = 0, bytes, differ, i;

	if (n > 8 * RUN_WORDS) {
		w->verdict.full = 1;
		return 0;
	}
	if (left > n)
		left = n;
	bytes = (run + 4ull) * 4;
	if (back)
		bytes += n - 8;
	for (i = 0; i < RUN_WORDS; i++) {
		__u64 mine = bytes;

		if (same >= left)
			break;
		if (mine > sizeof(*t) - 8)
			break;
		opaque(mine);
		if (mine > sizeof(*t) - 8)
			break;
		differ = *(const __u64 *)((const __u8 *)t + mine);
		if (back)
			differ = __builtin_bswap64(differ);
		differ ^= eight(w, pos, back);
		if (differ) {
			same += byte_of_lowest(differ);
			break;
		}
		same += 8;
		pos += back ? -8 : 8;
		bytes += back ? -8 : 8;
	}
	return same < left ? same : left;
}

/* How a walk goes on after some steps. */
enum { WALK_ON, WALK_ENDED /* at the end of the text */, WALK_OVER /* nothing is found any more */ };

/* What reaching a state says: the value to go on with, or -1 if that is over. PASSED is taken off. */
__noinline int table_arrive(const struct table *t, struct work *w, __u32 a, __u32 v, __u32 left)
{
	if (!t || !w)
		return -1;
	if (!(v & LEAF)) {
		add_set(w, outcome(t, a, v, 0));
		return v & ~PASSED;
	}
	if (v & PASSED || !left)
		add_set(w, v & BASE);
	return left ? 0 : -1;
}

/* What the end of the text says. */
__noinline int table_end(const struct table *t, struct work *w, __u32 a)
{
	if (!t || !w)
		return 0;
	add_set(w, outcome(t, a, w->value, 1));
	if (w->question.directory)
		add_set(w, outcome(t, a, w->value, 2));
	return 0;
}

/* One run, from w->value and w->at on. */
static __always_inline int run(const struct table *t, struct work *w, __u32 a, const bool back)
{
	__u32 list = at(t, a + AUTOMATON_HEAD + 2ull * (w->value & BASE) + 1), v;
	int same = same_bytes(t, w, list, back), next;

	w->at += back ? -same : same;
	w->left -= same;
	if ((__u32)same != at(t, list + 3ull)) {
		w->value = at(t, list + 2ull) & ~(RUN | LEAF | PASSED);
		/* The text may end inside the run. */
		return w->left ? WALK_ON : WALK_OVER;
	}
	v = at(t, list + 1ull);
	if (v & (PASSED | LEAF)) {
		next = table_arrive(t, w, a, v, w->left);
		if (next < 0)
			return WALK_OVER;
		v = next;
	}
	w->value = v;
	return WALK_ON;
}

__noinline int table_run_front(const struct table *t, struct work *w, __u32 a)
{
	return t && w ? run(t, w, a, false) : WALK_OVER;
}

__noinline int table_run_back(const struct table *t, struct work *w, __u32 a)
{
	return t && w ? run(t, w, a, true) : WALK_OVER;
}

/*
 * Step 3: some steps of an automaton. A step is a run, or a byte, before which up to eight others are
 * skipped that do not matter. `back` and `again` are constants: three loops are made of this.
 */
static __always_inline int walk(const struct table *t, struct work *w, __u32 a, const bool back,
				const bool again)
{
	__u64 v = w->value, pos = w->at, left = w->left, zero = w->zero, i;
	__u64 cells = (a + AUTOMATON_HEAD) * 4ull; /* in bytes */
	__u64 classes = a * 4ull;

	opaque(classes);
	if (classes > sizeof(*t) - 256)
		return WALK_OVER;
	for (i = 0; i < WALK_STEPS; i++) {
		__u64 base, own, cell, other, same;

		forget(v, zero);
		forget(pos, zero);
		forget(left, zero);
		if (!again && !(v & BASE))
			return WALK_OVER;
		if (!left) {
			w->value = v;
			return WALK_ENDED;
		}
		if (v & RUN) {
			w->value = v;
			w->at = pos;
			w->left = left;
			if (back ? table_run_back(t, w, a) : table_run_front(t, w, a))
				return WALK_OVER;
			v = w->value;
			pos = w->at;
			left = w->left;
			continue;
		}
		if (v & WAITS && left > 8) {
			/* To the next `/`, or by eight bytes that have none; the next is read as any other. */
			same = eight(w, pos, back) ^ ('/' * ONES);
			same = byte_of_lowest((same - ONES) & ~same & HIGHS);
			pos += back ? -same : same;
			left -= same;
		}
		base = v & BASE;
		own = ((const __u8 *)t + classes)[w->text[pos & TEXT_MASK]];
		own = cells + 8 + (base + own) * 8;
		other = cells + 4 + base * 8;
		opaque(own);
		opaque(other);
		if (own > sizeof(*t) - 8 || other > sizeof(*t) - 8)
			return WALK_OVER;
		/* Both are loaded, and neither waits for a guess about which it is. */
		cell = *(const __u64 *)((const __u8 *)t + own);
		other = *(const __u32 *)((const __u8 *)t + other);
		same = ((cell & 0xffffffff) ^ base) - 1;
		v = other ^ (((cell >> 32) ^ other) & ((__s64)same >> 63));
		pos += back ? -1 : 1;
		left--;
		if (v & (PASSED | LEAF)) {
			int next = table_arrive(t, w, a, v, left);

			if (next < 0)
				return WALK_OVER;
			v = (__u32)next;
		}
	}
	w->value = v;
	w->at = pos;
	w->left = left;
	return WALK_ON;
}

__noinline int table_walk_some(const struct table *t, struct work *w, __u32 a)
{
	if (!t || !w)
		return WALK_OVER;
	if (w->walk == WALK_FRONT)
		return walk(t, w, a, false, false);
	if (w->walk == WALK_BACK)
		return walk(t, w, a, true, false);
	return walk(t, w, a, false, true);
}

/* Step 3: one automaton over the whole text. */
__noinline int table_walk(const struct table *t, struct work *w, __u32 kind, __u32 a)
{
	int i, how = WALK_ON;

	if (!t || !w)
		return 0;
	w->walk = kind;
	w->value = at(t, a + 65ull);
	w->left = w->len;
	w->at = kind == WALK_BACK ? w->start + w->len - 1 : w->start;
	for (i = 0; i < WALK_CALLS; i++) {
		how = table_walk_some(t, w, a);
		if (how != WALK_ON)
			break;
	}
	if (how == WALK_ON)
		w->verdict.full = 1;
	return how == WALK_ENDED ? table_end(t, w, a) : 0;
}

#include "table_net.h"
#include "table_check.h"

/* Opens a list of candidates, by its first and last word. */
__noinline int table_open_list(struct work *w, __u32 from, __u32 to)
{
	__u64 count;

	if (!w)
		return 0;
	count = w->list_count;
	opaque(count);
	if (count >= MAX_LISTS) {
		w->verdict.full = 1;
		return 0;
	}
	w->cursor[count] = from;
	w->last[count] = to;
	w->list_count = count + 1;
	return 0;
}

static __always_inline void open_list(const struct table *t, struct work *w, __u32 list)
{
	table_open_list(w, list + 1, list + 1 + length(t, list));
}

/* Opens what a leaf leads to, given its place. */
__noinline int table_open_leaf(const struct table *t, struct work *w, __u32 place)
{
	__u32 leaf, n, i;

	if (!t || !w)
		return 0;
	leaf = at(t, place);
	if ((leaf & (ONE | ITSELF)) == (ONE | ITSELF)) {
		/* The leaf is the first word of a candidate; the second is not read. */
		table_open_list(w, place, place + 1);
		return 0;
	}
	if (leaf & ONE) {
		open_list(t, w, leaf & ~ONE);
		return 0;
	}
	n = length(t, leaf);
	if (n > MAX_LISTS)
		w->verdict.full = 1;
	for (i = 0; i < MAX_LISTS; i++) {
		if (i >= n)
			break;
		open_list(t, w, at(t, leaf + 1ull + i));
	}
	return 0;
}

/*
 * Step 6.1: opens the lists of the leaves in one column. Where every leaf is itself a candidate that is
 * certain, nothing is opened, and the lowest of them is in w->decided.
 */
__noinline int table_open(const struct table *t, struct work *w, __u32 column, __u32 row)
{
	__u64 lowest = NONE, zero;
	__u32 i, leaf, several = 0;

	if (!t || !w)
		return 0;
	w->list_count = 0;
	zero = w->zero;
	for (i = 0; i < MAX_SETS; i++) {
		forget(lowest, zero);
		if (i >= w->set_count)
			break;
		leaf = at(t, column + (__u64)w->sets[i] * row);
		if (!leaf)
			continue;
		if ((leaf & (ONE | ITSELF)) != (ONE | ITSELF) || (w->marking && lowest != NONE)) {
			several = 1;
			break;
		}
		if (lowest == NONE || (leaf & RANK) < (lowest & RANK))
			lowest = leaf;
	}
	if (!several) {
		w->decided = lowest;
		return 0;
	}
	for (i = 0; i < MAX_SETS; i++) {
		if (i >= w->set_count)
			break;
		table_open_leaf(t, w, column + w->sets[i] * row);
	}
	return 1;
}

/* The list whose next candidate has the lowest rank; MAX_LISTS if all are at their end. */
__noinline int table_lowest(const struct table *t, struct work *w)
{
	__u32 i, rank, lowest = NONE, best = MAX_LISTS;

	if (!t || !w)
		return MAX_LISTS;
	for (i = 0; i < MAX_LISTS; i++) {
		if (i >= w->list_count)
			break;
		if (w->cursor[i] >= w->last[i])
			continue;
		rank = at(t, w->cursor[i]) & RANK;
		if (rank < lowest) {
			lowest = rank;
			best = i;
		}
	}
	return best;
}

static __always_inline void mark(struct work *w, __u32 head)
{
	__u64 n = w->verdict.marks;

	if (n < MAX_MARKS)
		w->verdict.mark[n] = head & RANK;
	w->verdict.marks = n + 1;
}

/* A candidate whose rule matches: steps 6.3 and 8. 1 when it decides the layer. */
static __always_inline int matches(struct work *w, __u32 head)
{
	if (w->marking) {
		mark(w, head);
		return 0;
	}
	if (!(head & CONDITIONAL)) {
		w->decided = head;
		return 1;
	}
	/* An allow whose condition is not evaluated is passed over. */
	if (head >> 24 & 7 && (w->floor == NONE || (head >> 24 & 7) > (w->floor >> 24 & 7)))
		w->floor = head;
	return 0;
}

/*
 * Steps 6.1 to 6.3: the next check of a layer's candidates, of one whose pattern may match or of those
 * that may refuse it. 1 when the layer is done.
 */
static long next_check(__u32 i, struct both *both)
{
	const struct table *t = both->t;
	struct work *w = both->w;
	__u32 head, cursor, rank, check;
	__u64 best;

	if (w->verdict.full || i == MAX_CHECKS - 1) {
		w->verdict.full = 1;
		return 1;
	}
	if (w->refusals) {
		w->refusals--;
		w->refusal++;
		check = at(t, w->refusal);
		if (check && table_holds(t, w, both->plane, check)) {
			w->refusals = 0;
			return 0;
		}
		return w->refusals ? 0 : matches(w, w->head);
	}
	best = (__u32)table_lowest(t, w);
	if (best >= MAX_LISTS)
		return 1;
	cursor = w->cursor[best];
	w->cursor[best] = cursor + 2;
	head = at(t, cursor);
	rank = head & RANK;
	if (rank == w->done)
		return 0;
	if (!(head & CERTAIN)) {
		__u32 refusals;

		check = at(t, cursor + 1ull);
		if (check && !table_holds(t, w, both->plane, check))
			return 0;
		refusals = at(t, w->rules + 2ull + 2ull * rank);
		w->refusals = length(t, refusals);
		w->refusal = refusals;
		w->head = head;
	}
	w->done = rank;
	return w->refusals ? 0 : matches(w, head);
}

/* Step 7. */
static __always_inline void stricter(struct work *w, __u32 effect, __u32 layer, __u32 rank)
{
	struct verdict *v = &w->verdict;

	if (effect == NONE || (v->effect != NONE && effect <= v->effect))
		return;
	v->effect = effect;
	v->layer = layer;
	v->rank = rank;
}

/* Steps 6 and 8: what decides a layer is then in w->decided, and in w->floor. */
static __always_inline void layer_of(const struct table *t, struct work *w, __u32 plane, __u32 layer,
				     __u32 class)
{
	struct both both = { t, w, plane };
	__u32 classes = at(t, plane + (__u64)F_CLASSES);
	__u32 row = (at(t, plane + (__u64)F_LAYERS) + 1) * classes;
	__u32 column = at(t, plane + (__u64)F_LEAVES) + layer * classes + class;

	w->rules = at(t, at(t, plane + (__u64)F_RULES) + (__u64)layer);
	w->done = w->decided = w->floor = NONE;
	w->refusals = 0;
	if (table_open(t, w, column, row))
		bpf_loop(MAX_CHECKS, next_check, &both, 0);
	else if (w->marking && w->decided != NONE)
		mark(w, w->decided);
}

/*
 * Decides w->question with a table, into w->verdict; `layer` and `rank` are meant only where `effect` is
 * not NONE. Text byte i is w->text[start + i], and start + len is at most TEXT_ROOM. Labels are not
 * known here, nor the addresses behind a name: an endpoint that has a name and no address is not decided.
 */
__noinline int decide(const struct table *t, struct work *w)
{
	__u32 plane, class, layers, list, n, i, verb, kind;

	if (!t || !w)
		return 0;
	verb = w->question.verb;
	kind = w->question.kind;
	w->verdict.effect = NONE;
	w->verdict.layer = 0;
	w->verdict.rank = NONE;
	w->verdict.full = 0;
	w->verdict.marks = 0;
	plane = kind <= KIND_NAME ? at(t, PLANES + (__u64)kind) : 0;
	if (!plane || verb >= VERBS)
		return 0;
	class = at(t, at(t, plane + (__u64)F_VERBS) + (__u64)verb);
	if (class == NONE)
		return 0;
	w->zero = 0;
	w->slashes = NONE;
	w->budget = LINE_BUDGET;
	w->has_text = w->question.has_text;
	w->start = w->question.start;
	w->len = w->question.len;
	if (w->has_text && (w->start > TEXT_ROOM || w->len > TEXT_ROOM - w->start)) {
		w->verdict.full = 1;
		return 0;
	}
	if (kind == KIND_ENDPOINT && !table_name(w))
		return 0;
	w->sets[0] = 1;
	w->set_count = 1;
	list = at(t, plane + (__u64)F_AUTOMATA);
	n = w->has_text ? length(t, list) / 2 : 0;
	if (n > MAX_AUTOMATA)
		w->verdict.full = 1;
	for (i = 0; i < MAX_AUTOMATA; i++) {
		if (i >= n)
			break;
		table_walk(t, w, at(t, list + 1ull + 2 * i), at(t, list + 2ull + 2 * i));
	}
	if (kind == KIND_ENDPOINT)
		table_endpoint(t, w, plane);
	layers = at(t, plane + (__u64)F_LAYERS);
	/* The marks are one more layer, behind the others. */
	for (i = 0; i <= MAX_LAYERS; i++) {
		if (i > layers || w->verdict.full)
			break;
		w->marking = i == layers;
		layer_of(t, w, plane, i, class);
		if (w->marking)
			break;
		if (w->decided != NONE)
			stricter(w, w->decided >> 24 & 7, i, w->decided & RANK);
		else
			stricter(w, at(t, DEFAULTS + i * VERBS + (__u64)verb), i, NONE);
		if (w->floor != NONE)
			stricter(w, w->floor >> 24 & 7, i, w->floor & RANK);
	}
	if (w->verdict.full) {
		w->verdict.effect = NONE;
		w->verdict.marks = 0;
	}
	return 0;
}

#endif
