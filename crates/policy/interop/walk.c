/*
 * Answers questions with a policy table (docs/policy-table.md): the specification, once more, in C99.
 *
 * A second implementation beside the engine, and the seed of the side that runs in the kernel: the table
 * is used where it is mapped, nothing is allocated or called recursively in a walk, every loop has a bound
 * that does not depend on the table, and every read is checked. What does not fit is "not decided".
 *
 *     walk TABLE < QUESTIONS
 *
 * A question is a line of eight fields between tabs: verb, kind (0 path, 1 endpoint, 2 host, 3 Unix
 * socket, 5 name), 1 for a directory, the text in hex, 6 or 17 for TCP or UDP, port, address in hex (4 or
 * 16 bytes), labels in hex between commas; '-' where there is none. An answer is a line: effect, layer,
 * rank or 'd' for the default, marks; or '?' for "not decided".
 */
#define _POSIX_C_SOURCE 200809L
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_TEXT = 4096, MAX_SETS = 24, MAX_LISTS = 24, MAX_AUTOMATA = 64, MAX_LABELS = 64,
       MAX_LIST = 4096, MAX_MERGE = 65536, MAX_MARKS = 256, LINE_STATES = 4224 };
enum { VERBS = 22, DEFAULTS = 12 };
enum { F_SETS, F_LAYERS, F_CLASSES, F_VERBS, F_AUTOMATA, F_V4, F_V6, F_WRAPPED, F_TCP, F_UDP, F_LABELS,
       F_PUBLIC, F_MEMBERS, F_LEAVES, F_RULES };
#define HIGH 0x80000000u /* first cell, passed, certain, private, one list, passed alone */
#define CONDITIONAL 0x40000000u
#define ENDING 0x40000000u /* ending alone */
#define RUN 0x20000000u
#define ITSELF 0x20000000u
#define LEAF 0x10000000u
#define BASE 0x0fffffffu
#define NONE 0xffffffffu

static const uint32_t *words;
static uint32_t length, plane;
static int full; /* something did not fit: not decided */

struct text { uint8_t bytes[MAX_TEXT]; uint32_t len; };
struct question {
    uint32_t verb, kind, directory, protocol, port, address_len, labels;
    int has_text;
    struct text text, label[MAX_LABELS];
    uint8_t address[16];
};

static uint32_t sets[MAX_SETS], set_count, marks[MAX_MARKS], mark_count;

static uint32_t at(uint64_t offset) { return offset < length ? words[offset] : 0; }
static uint32_t field(uint32_t f) { return at((uint64_t)plane + f); }

/* The length of a list, cut where it would leave the table; its members begin at offset + 1. */
static uint32_t list(uint32_t offset)
{
    uint32_t n = at(offset);
    if (offset == 0 || offset >= length)
        return 0;
    return n < length - offset ? n : length - offset - 1;
}

static uint32_t bounded(uint32_t n, uint32_t most)
{
    full |= n > most;
    return n > most ? most : n;
}

static void add_set(uint32_t set)
{
    if (set == 0 || (set_count && sets[set_count - 1] == set))
        return;
    full |= set_count == MAX_SETS;
    if (set_count < MAX_SETS)
        sets[set_count++] = set;
}

/* One of the three sets of a state: passed, ending, directory. */
static uint32_t outcome(uint32_t a, uint32_t v, uint32_t which)
{
    uint64_t cell = a + 67 + 2 * ((uint64_t)(v & BASE) + 1 + at(a + 64ull));
    uint32_t said = at(cell + 1);

    if (at(cell) != (v & BASE))
        return 0;
    if (said & (HIGH | ENDING))
        return which == (said & HIGH ? 0 : 1) ? said & ~(HIGH | ENDING) : 0;
    return at((uint64_t)said + 1 + which);
}

static uint8_t byte_at(const struct question *q, uint32_t back, uint32_t i)
{
    return q->text.bytes[back ? q->text.len - 1 - i : i];
}

/* How many bytes of a run the text has from its byte i on, in the order of the walk. */
static uint32_t same_bytes(uint32_t run, uint32_t n, uint32_t back, uint32_t i, const struct question *q)
{
    uint32_t same, k, word;

    for (same = 0; same < n && i + same < q->text.len && same < MAX_TEXT; same++) {
        k = back ? n - 1 - same : same;
        word = at((uint64_t)run + 4 + k / 4);
        if (((const uint8_t *)&word)[k % 4] != byte_at(q, back, i + same))
            break;
    }
    return same;
}

/* Step 3: one automaton over the text. */
static void walk(uint32_t back, uint32_t a, const struct question *q)
{
    uint32_t v = at(a + 65ull), base, i = 0, steps, run, n, same;
    uint64_t cell;
    const uint8_t *class_of = (const uint8_t *)(words + a);

    if ((uint64_t)a + 67 > length) {
        full = 1;
        return;
    }
    for (steps = 0; i < q->text.len && steps < 2 * MAX_TEXT; steps++) {
        base = v & BASE;
        if (v & RUN) {
            run = at(a + 67 + 2ull * base + 1);
            n = at(run + 3ull);
            same = same_bytes(run, n, back, i, q);
            i += same;
            if (same < n) {
                if (i >= q->text.len)
                    return; /* the text ends inside the run */
                v = at(run + 2ull);
                continue;
            }
            v = at(run + 1ull);
        } else {
            cell = a + 67 + 2 * ((uint64_t)base + 1 + class_of[byte_at(q, back, i)]);
            v = at(cell) == base ? at(cell + 1) : at(a + 67 + 2ull * base + 1);
            i++;
        }
        if (v & LEAF) {
            if (v & HIGH || i >= q->text.len)
                add_set(v & BASE);
            if (i >= q->text.len)
                return;
            v = 0;
        } else if (v & HIGH) {
            add_set(outcome(a, v, 0));
        }
    }
    full |= i < q->text.len;
    add_set(outcome(a, v, 1));
    if (q->directory)
        add_set(outcome(a, v, 2));
}

/* The set of the range a number is in: the greatest beginning not above it. */
static uint32_t range(uint32_t f, const uint32_t *number, uint32_t width)
{
    uint32_t offset = field(f), n = list(offset) / (width + 1), low = 0, high = n, step, w;

    for (step = 0; step < 32 && low < high; step++) {
        uint32_t middle = low + (high - low) / 2, above = 0;
        for (w = 0; w < width; w++) {
            uint32_t begin = at((uint64_t)offset + 1 + middle * width + w);
            if (begin != number[w]) {
                above = begin > number[w];
                break;
            }
        }
        if (above)
            high = middle;
        else
            low = middle + 1;
    }
    return low == 0 ? 0 : at((uint64_t)offset + 1 + n * width + low - 1);
}

static uint32_t address_set(uint32_t f, const uint32_t *number, uint32_t width, uint32_t *private)
{
    uint32_t set = range(f, number, width);
    *private |= at((uint64_t)field(F_MEMBERS) + 1 + set) & HIGH;
    return set;
}

/* Steps 4.3 and 4.4, for an address of 4 or 16 bytes. */
static void add_address(const uint8_t *a, uint32_t len)
{
    uint32_t n[4], inside[3], count = 0, i, private = 0;
#define SEG(i) ((uint32_t)a[2 * (i)] << 8 | a[2 * (i) + 1])

    for (i = 0; i < len / 4; i++)
        n[i] = (uint32_t)a[4 * i] << 24 | (uint32_t)a[4 * i + 1] << 16 | (uint32_t)a[4 * i + 2] << 8 | a[4 * i + 3];
    if (len == 16 && !n[0] && !n[1] && n[2] == 0xffff) { /* mapped: not canonical, but plain */
        n[0] = n[3];
        len = 4;
    }
    if (len == 4) {
        add_set(address_set(F_V4, n, 1, &private));
    } else {
        add_set(address_set(F_V6, n, 4, &private));
        if (n[0] == 0x0064ff9b && !n[1] && !n[2])
            inside[count++] = n[3];
        else if (SEG(0) == 0x2002)
            inside[count++] = SEG(1) << 16 | SEG(2);
        else if (n[0] == 0x20010000) {
            inside[count++] = n[1];
            inside[count++] = ~n[3];
        } else if (!n[0] && !n[1] && !n[2])
            inside[count++] = n[3];
        if ((SEG(4) == 0 || SEG(4) == 0x200) && SEG(5) == 0x5efe)
            inside[count++] = n[3];
        for (i = 0; i < count; i++)
            add_set(address_set(F_WRAPPED, &inside[i], 1, &private));
    }
    if (!private)
        add_set(field(F_PUBLIC));
}

static int is_local(const struct text *t)
{
    static const char name[] = ".localhost";
    uint32_t n = sizeof name - 1;
    if (t->len == n - 1 && !memcmp(t->bytes, name + 1, n - 1))
        return 1;
    return t->len >= n && !memcmp(t->bytes + t->len - n, name, n);
}

/* Step 4. */
static void endpoint(const struct question *q)
{
    static const uint8_t loop4[4] = { 127, 0, 0, 1 }, loop6[16] = { [15] = 1 };
    uint8_t parsed[16];
    char name[64];

    add_set(range(q->protocol == 6 ? F_TCP : F_UDP, &q->port, 1));
    if (q->address_len) {
        add_address(q->address, q->address_len);
    } else if (q->has_text && is_local(&q->text)) {
        add_address(loop4, 4);
        add_address(loop6, 16);
    } else if (q->has_text && q->text.len < sizeof name && !memchr(q->text.bytes, 0, q->text.len)) {
        memcpy(name, q->text.bytes, q->text.len);
        name[q->text.len] = 0;
        if (inet_pton(AF_INET, name, parsed) == 1)
            add_address(parsed, 4);
        else if (inet_pton(AF_INET6, name, parsed) == 1)
            add_address(parsed, 16);
    }
}

/* Step 5. */
static void add_labels(const struct question *q)
{
    uint32_t offset = field(F_LABELS), n = bounded(list(offset) / 2, MAX_LIST), i, k, b;

    for (i = 0; q->labels && i < n; i++) {
        uint32_t name = at((uint64_t)offset + 1 + 2 * i), len = list(name), same = 0;
        for (k = 0; k < q->labels && k < MAX_LABELS && !same; k++) {
            same = q->label[k].len == len;
            for (b = 0; same && b < len && b < MAX_TEXT; b++)
                same = at((uint64_t)name + 1 + b) == q->label[k].bytes[b];
        }
        if (same)
            add_set(at((uint64_t)offset + 2 + 2 * i));
    }
}

static uint64_t now[LINE_STATES / 64 + 1], next[LINE_STATES / 64 + 1];

static void add_state(uint64_t *states, uint32_t line, uint32_t steps, uint32_t state)
{
    for (; state <= steps; state++) {
        uint32_t step = at((uint64_t)line + 1 + state);
        states[state / 64] |= 1ull << (state % 64);
        if (state == steps || step < 0x100000 || step > 0x1fffff)
            return;
    }
}

static int in_set(uint32_t set, uint8_t byte)
{
    return at((uint64_t)at(3) + 8ull * set + byte / 32) >> (byte % 32) & 1;
}

/* A whole pattern, as a set of states that goes over the text. */
static int line_matches(uint32_t line, const struct question *q)
{
    uint32_t steps = list(line), i, s;

    if (steps >= LINE_STATES) {
        full = 1; /* only a literal front may be longer, and a longer one than a text matches nothing */
        return 0;
    }
    if (!q->has_text)
        return 0;
    memset(now, 0, sizeof now);
    add_state(now, line, steps, 0);
    for (i = 0; i < q->text.len && i < MAX_TEXT; i++) {
        uint8_t byte = q->text.bytes[i];
        memset(next, 0, sizeof next);
        for (s = 0; s < steps; s++) {
            uint32_t step = at((uint64_t)line + 1 + s);
            if (!(now[s / 64] >> (s % 64) & 1))
                continue;
            if (step < 0x100) {
                if (step == byte)
                    add_state(next, line, steps, s + 1);
            } else if (step < 0x100000) {
                if (in_set(step - 0x100, byte))
                    add_state(next, line, steps, s + 1);
            } else if (step < 0x200000) {
                if (in_set(step - 0x100000, byte))
                    add_state(next, line, steps, s);
            } else {
                if (step == 0x200001)
                    add_state(next, line, steps, s);
                if (step == 0x200003 || byte == '/')
                    add_state(next, line, steps, s + 1);
                if (step == 0x200000 && byte == '/')
                    add_state(next, line, steps, s + 2);
            }
        }
        memcpy(now, next, sizeof now);
    }
    for (s = 0; q->directory && s < steps; s++) {
        uint32_t step = at((uint64_t)line + 1 + s);
        if ((now[s / 64] >> (s % 64) & 1) && (step == 0x200002 || step == 0x200003))
            return 1;
    }
    return now[steps / 64] >> (steps % 64) & 1;
}

static int has_part(uint32_t part)
{
    uint32_t s, i;
    for (s = 0; s < set_count; s++) {
        uint32_t members = at((uint64_t)field(F_MEMBERS) + 1 + sets[s]) & ~HIGH;
        uint32_t n = bounded(list(members), MAX_LIST);
        for (i = 0; i < n; i++)
            if (at((uint64_t)members + 1 + i) == part)
                return 1;
    }
    return 0;
}

static int holds(uint32_t check, const struct question *q)
{
    uint32_t n = bounded(list(check), MAX_LIST), slashes = 0, i, line;

    for (i = 2; i < n; i++)
        if (!has_part(at((uint64_t)check + 1 + i)))
            return 0;
    if (n < 2)
        return 1;
    for (i = 0; q->has_text && i < q->text.len && i < MAX_TEXT; i++)
        slashes += q->text.bytes[i] == '/';
    line = at(check + 2ull);
    return slashes >= at(check + 1ull) && (line == 0 || line_matches(line, q));
}

/* Steps 6.1 and 6.2: the first word of the next candidate that matches, or NONE. */
static uint32_t cursor[MAX_LISTS], last[MAX_LISTS], open_lists, done;

static void open_list(uint32_t from, uint32_t to)
{
    full |= open_lists == MAX_LISTS;
    if (open_lists < MAX_LISTS) {
        cursor[open_lists] = from;
        last[open_lists++] = to;
    }
}

static void begin(uint32_t layer, uint32_t class)
{
    uint64_t classes = field(F_CLASSES), row = (field(F_LAYERS) + 1ull) * classes;
    uint32_t s, i;

    open_lists = 0;
    done = NONE;
    for (s = 0; s < set_count; s++) {
        uint64_t place = field(F_LEAVES) + sets[s] * row + layer * classes + class;
        uint32_t leaf = at(place), one = leaf & ~HIGH, n;
        if (leaf & HIGH && leaf & ITSELF) {
            open_list((uint32_t)place, (uint32_t)place + 1);
        } else if (leaf & HIGH) {
            open_list(one + 1, one + 1 + list(one));
        } else {
            n = bounded(list(leaf), MAX_LISTS);
            for (i = 0; i < n; i++) {
                one = at((uint64_t)leaf + 1 + i);
                open_list(one + 1, one + 1 + list(one));
            }
        }
    }
}

static uint32_t next_match(uint32_t layer, const struct question *q)
{
    uint32_t rules = at((uint64_t)field(F_RULES) + layer), steps, i;

    for (steps = 0; steps < MAX_MERGE; steps++) {
        uint32_t best = NONE, head = 0, check, rank, negative, n;
        for (i = 0; i < open_lists && i < MAX_LISTS; i++)
            if (cursor[i] < last[i] && (best == NONE || (at(cursor[i]) & 0xffffff) < (head & 0xffffff))) {
                best = i;
                head = at(cursor[i]);
            }
        if (best == NONE)
            return NONE;
        check = at(cursor[best] + 1ull);
        cursor[best] += 2;
        rank = head & 0xffffff;
        if (rank == done)
            continue;
        if (!(head & HIGH)) {
            if (check && !holds(check, q))
                continue;
            negative = at((uint64_t)rules + 1 + 2ull * rank + 1);
            n = bounded(list(negative), MAX_LIST);
            for (i = 0; i < n && !holds(at((uint64_t)negative + 1 + i), q); i++)
                ;
            if (i < n) {
                done = rank;
                continue;
            }
        }
        done = rank;
        return head;
    }
    full = 1;
    return NONE;
}

struct answer { uint32_t effect, layer, rank; };

static void stricter(struct answer *a, uint32_t effect, uint32_t layer, uint32_t rank)
{
    if (effect != NONE && (a->effect == NONE || effect > a->effect))
        *a = (struct answer){ effect, layer, rank };
}

/* The decision; effect NONE: not decided. */
static struct answer decide(const struct question *q)
{
    struct answer answer = { NONE, 0, 0 };
    uint32_t class, i, layer, head, n;

    full = 0;
    set_count = mark_count = 0;
    plane = q->kind < 6 ? at(4 + q->kind) : 0;
    if (plane == 0 || q->verb >= VERBS || (class = at((uint64_t)field(F_VERBS) + q->verb)) == NONE)
        return answer;
    add_set(1);
    n = q->has_text ? bounded(list(field(F_AUTOMATA)) / 2, MAX_AUTOMATA) : 0;
    for (i = 0; i < n; i++) {
        uint64_t pair = (uint64_t)field(F_AUTOMATA) + 1 + 2 * i;
        walk(at(pair) == 1, at(pair + 1), q);
    }
    if (q->kind == 1)
        endpoint(q);
    add_labels(q);
    for (layer = 0; layer < 3 && layer < field(F_LAYERS); layer++) {
        uint32_t floor = NONE, floor_rank = 0;
        begin(layer, class);
        for (i = 0; i < MAX_MERGE && (head = next_match(layer, q)) != NONE; i++) {
            uint32_t effect = head >> 24 & 7, rank = head & 0xffffff;
            if (!(head & CONDITIONAL)) {
                stricter(&answer, effect, layer, rank);
                break;
            }
            if (effect > 0 && (floor == NONE || effect > floor)) {
                floor = effect;
                floor_rank = rank;
            }
        }
        full |= i == MAX_MERGE;
        if (head == NONE)
            stricter(&answer, at(DEFAULTS + (uint64_t)layer * VERBS + q->verb), layer, NONE);
        stricter(&answer, floor, layer, floor_rank);
    }
    begin(field(F_LAYERS), class);
    for (i = 0; i < MAX_MERGE && (head = next_match(field(F_LAYERS), q)) != NONE; i++) {
        full |= mark_count == MAX_MARKS;
        if (mark_count < MAX_MARKS)
            marks[mark_count++] = head & 0xffffff;
    }
    if (full)
        answer.effect = NONE;
    return answer;
}

/* What follows reads questions and is no part of the walk. */

static void bad(const char *what)
{
    fprintf(stderr, "walk: %s\n", what);
    exit(2);
}

static uint32_t hex(const char *from, size_t n, uint8_t *to, uint32_t room)
{
    size_t i;
    unsigned byte;
    if (n % 2 || n / 2 > room)
        bad("a question has hex of odd length, or too much of it");
    for (i = 0; i < n / 2; i++) {
        if (sscanf((const char[]){ from[2 * i], from[2 * i + 1], 0 }, "%2x", &byte) != 1)
            bad("a question has hex that is none");
        to[i] = (uint8_t)byte;
    }
    return (uint32_t)(n / 2);
}

static void read_question(char *line, struct question *q)
{
    char *f[8], *label;
    int i;
    for (i = 0; i < 8; i++, line = line ? line + 1 : NULL) {
        if (!(f[i] = line))
            bad("a question has eight fields between tabs");
        if ((line = strpbrk(line, "\t\n")))
            *line = 0;
    }
    q->verb = (uint32_t)strtoul(f[0], NULL, 10);
    q->kind = (uint32_t)strtoul(f[1], NULL, 10);
    q->directory = f[2][0] == '1';
    q->has_text = f[3][0] != '-';
    q->text.len = q->has_text ? hex(f[3], strlen(f[3]), q->text.bytes, MAX_TEXT) : 0;
    q->protocol = (uint32_t)strtoul(f[4], NULL, 10);
    q->port = (uint32_t)strtoul(f[5], NULL, 10);
    q->address_len = f[6][0] == '-' ? 0 : hex(f[6], strlen(f[6]), q->address, 16);
    for (q->labels = 0, label = f[7]; label[0] != '-' && q->labels < MAX_LABELS; q->labels++) {
        size_t n = strcspn(label, ",");
        q->label[q->labels].len = hex(label, n, q->label[q->labels].bytes, MAX_TEXT);
        if (!label[n] && ++q->labels)
            break;
        label += n + 1;
    }
    /* Step 2, for what depends on the object. */
    if (q->kind == 3 && q->has_text && q->text.len && q->text.bytes[0] == '@')
        q->kind = 4;
    else if ((q->kind == 0 || q->kind == 3) && (!q->text.len || q->text.bytes[0] != '/'))
        q->kind = 6;
    if (q->kind == 1 && !q->has_text
        && ((q->address_len == 4 && q->address[0] == 127)
            || (q->address_len == 16 && !memcmp(q->address, (const uint8_t[16]){ [15] = 1 }, 16)))) {
        q->text.len = 9;
        memcpy(q->text.bytes, "localhost", 9);
        q->has_text = 1;
    }
}

int main(int argc, char **argv)
{
    static struct question q;
    static char line[16384];
    struct stat st;
    void *map;
    int fd = argc == 2 ? open(argv[1], O_RDONLY) : -1;
    uint32_t i;

    if (fd < 0 || fstat(fd, &st))
        bad("usage: walk TABLE < QUESTIONS");
    if (st.st_size < 4 * (DEFAULTS + 3 * VERBS) || st.st_size % 4 || st.st_size / 4 >= RUN)
        bad("not a table: its size");
    map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED)
        bad("cannot map the table");
    words = map;
    length = (uint32_t)(st.st_size / 4);
    if (memcmp(words, "AWPT", 4) || words[1] != 2 || words[2] != length || words[10] != VERBS)
        bad("not a table of version 2 in this byte order, whole");
    while (fgets(line, sizeof line, stdin)) {
        struct answer a;
        read_question(line, &q);
        a = decide(&q);
        if (a.effect == NONE) {
            puts("?");
            continue;
        }
        printf("%u\t%u\t", a.effect, a.layer);
        printf(a.rank == NONE ? "d\t" : "%u\t", a.rank);
        for (i = 0; i < mark_count; i++)
            printf("%s%u", i ? "," : "", marks[i]);
        puts(mark_count ? "" : "-");
    }
    return 0;
}
