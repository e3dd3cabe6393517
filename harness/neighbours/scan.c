/* The filtered search of scan.py for one block of queries: all pairs by their codes, then level by level.

   Rows are database images in order of class. Everything is an integer: no bound rounds. */

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>
#ifdef __AVX512VPOPCNTDQ__
#include <immintrin.h>
#endif

enum { GROUP = 8, TILE = 1024 }; /* rows whose codes are compared at once; rows whose codes stay in the cache */

typedef struct {
    const void *rows, *queries; /* int16 or int32 [.][blocks] */
    int64_t blocks, value_bytes;
} Level;

typedef struct {
    const uint64_t *codes; /* [N][words] */
    const int32_t *errors; /* [N], in steps */
    const int64_t *order, *ids;
    const uint8_t *pixels; /* [N][values], by position */
    int64_t words, values, step, level_count;
    const Level *levels;
} Database;

typedef struct {
    int64_t count;
    const uint64_t *codes;
    const int64_t *errors; /* in pixel differences */
    const uint8_t *pixels;
    const int64_t *ids; /* NULL where the queries aren't in the database */
    int64_t *distance[2], *id[2]; /* the nearest of other classes, of the own class; INT64_MAX where none */
} Queries;

/* Codes of GROUP rows lie word by word beside each other, so that a row's count needs no sum across lanes. */
typedef struct {
    uint64_t *codes;
    int64_t rows[TILE], errors[TILE], candidates[TILE], steps[TILE];
} Tile;

static int64_t l1_16(const int16_t *a, const int16_t *b, int64_t count) {
    int32_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += abs(a[i] - b[i]);
    return sum;
}

static int64_t l1_32(const int32_t *a, const int32_t *b, int64_t count) {
    int64_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += llabs((int64_t)a[i] - b[i]);
    return sum;
}

static int64_t l1_8(const uint8_t *a, const uint8_t *b, int64_t count) {
    int32_t sum = 0;
    for (int64_t i = 0; i < count; i++) sum += abs(a[i] - b[i]);
    return sum;
}

static int64_t level_bound(const Level *level, int64_t query, int64_t row) {
    int64_t n = level->blocks;
    if (level->value_bytes == 2)
        return l1_16((const int16_t *)level->queries + query * n, (const int16_t *)level->rows + row * n, n);
    return l1_32((const int32_t *)level->queries + query * n, (const int32_t *)level->rows + row * n, n);
}

/* Steps of GROUP rows; a bit is set for each that is not above the limit. */
static unsigned near_group(
    const uint64_t *query, const uint64_t *codes, const int64_t *errors, int64_t words, int64_t limit,
    int64_t *steps) {
#ifdef __AVX512VPOPCNTDQ__
    __m512i sum = _mm512_setzero_si512();
    for (int64_t w = 0; w < words; w++) {
        __m512i differ = _mm512_xor_si512(_mm512_set1_epi64(query[w]), _mm512_load_si512(codes + GROUP * w));
        sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(differ));
    }
    sum = _mm512_sub_epi64(sum, _mm512_loadu_si512(errors));
    unsigned near = _mm512_cmple_epi64_mask(sum, _mm512_set1_epi64(limit));
    if (near) _mm512_storeu_si512(steps, sum);
    return near;
#else
    unsigned near = 0;
    for (int r = 0; r < GROUP; r++) steps[r] = -errors[r];
    for (int64_t w = 0; w < words; w++)
        for (int r = 0; r < GROUP; r++) steps[r] += __builtin_popcountll(query[w] ^ codes[GROUP * w + r]);
    for (int r = 0; r < GROUP; r++) near |= (unsigned)(steps[r] <= limit) << r;
    return near;
#endif
}

static int64_t limit_of(const Queries *queries, int64_t query, int own) {
    int64_t other = queries->distance[0][query], mine = queries->distance[1][query];
    return own && mine < other ? mine : other;
}

static int64_t step_limit(const Database *database, const Queries *queries, int64_t query, int own) {
    int64_t limit = limit_of(queries, query, own);
    if (limit > INT64_MAX / 4) limit = INT64_MAX / 4; /* which leaves room for the sum */
    return (limit + queries->errors[query]) / database->step;
}

/* A candidate through the levels, and measured if none rules it out. */
static void examine(
    const Database *database, const Queries *queries, int64_t query, int64_t row, int own, int64_t *kept) {
    int64_t limit = limit_of(queries, query, own);
    for (int64_t i = 0; i < database->level_count; i++) {
        if (level_bound(database->levels + i, query, row) > limit) return;
        kept[1 + i]++;
    }
    int64_t n = database->values, id = database->ids[row];
    int64_t measured = l1_8(queries->pixels + query * n, database->pixels + database->order[row] * n, n);
    kept[1 + database->level_count]++;
    int64_t *distance = queries->distance[own] + query, *best = queries->id[own] + query;
    if (measured < *distance || (measured == *distance && id < *best)) {
        *distance = measured;
        *best = id;
    }
}

static void search_tile(
    const Database *database, const Queries *queries, Tile *tile, int64_t count, int own, int64_t *kept) {
    int64_t words = database->words, group_steps[GROUP];
    for (int64_t query = 0; query < queries->count; query++) {
        const uint64_t *code = queries->codes + query * words;
        int64_t limit = step_limit(database, queries, query, own), found = 0, lowest = 0;
        for (int64_t first = 0; first < count; first += GROUP) {
            unsigned near =
                near_group(code, tile->codes + first * words, tile->errors + first, words, limit, group_steps);
            for (; near; near &= near - 1) {
                int r = __builtin_ctz(near);
                int64_t row = tile->rows[first + r];
                if (own && queries->ids && queries->ids[query] == database->ids[row]) continue; /* itself */
                tile->candidates[found] = row;
                tile->steps[found] = group_steps[r];
                if (group_steps[r] < tile->steps[lowest]) lowest = found;
                found++;
            }
        }
        if (!found) continue;
        /* The lowest bound first: it lowers the limit for all others. */
        kept[0]++;
        examine(database, queries, query, tile->candidates[lowest], own, kept);
        for (int64_t i = 0; i < found; i++) {
            if (i == lowest || tile->steps[i] > step_limit(database, queries, query, own)) continue;
            kept[0]++;
            examine(database, queries, query, tile->candidates[i], own, kept);
        }
    }
}

/* The nearest of each query among rows start to stop, all of the queries' own class or all of others.

   Tiles take every so many rows: each is a sample of all classes, and limits fall early.
   ``kept`` int64 [2 + levels] counts pairs left by the codes, by each level, and distances measured.
   ``scratch`` has 8 * words * TILE bytes, aligned to 64. */
void search_rows(
    const Database *database, const Queries *queries, int64_t start, int64_t stop, int64_t own,
    uint64_t *scratch, int64_t *kept) {
    static _Thread_local Tile tile;
    int64_t words = database->words, tiles = (stop - start + TILE - 1) / TILE;
    tile.codes = scratch;
    for (int64_t first = 0; first < tiles; first++) {
        int64_t count = 0;
        for (int64_t row = start + first; row < stop; row += tiles, count++) {
            uint64_t *group = scratch + count / GROUP * GROUP * words + count % GROUP;
            for (int64_t w = 0; w < words; w++) group[GROUP * w] = database->codes[row * words + w];
            tile.rows[count] = row;
            tile.errors[count] = database->errors[row];
        }
        for (; count % GROUP; count++) tile.errors[count] = INT64_MIN / 2; /* no row: above every limit */
        search_tile(database, queries, &tile, count, own, kept);
    }
}
