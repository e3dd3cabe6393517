/* The filtered search of scan.py for one block of queries: all pairs by their codes, then level by level.

   Rows are database images in order of class. Everything is an integer: no bound rounds, and none but a row
   whose bound is above the distance of a measured image is left out. */

#include <stdint.h>
#include <stdlib.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

/* Queries compared at once with a group of rows, of the TILE rows whose codes stay in the cache. */
enum { AT_ONCE = 4, GROUP = 8 };

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

/* Codes of GROUP rows lie word by word beside each other, so that a row's sum needs no other lane. */
typedef struct {
    uint64_t *codes;
    int64_t count, rows[TILE], errors[TILE];
} Tile;

typedef struct {
    int64_t count, lowest, rows[TILE], steps[TILE];
} Candidates;

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

/* Steps of GROUP rows from AT_ONCE queries; a bit is set for each that is not above the query's limit.

   The steps of a query without such a row may be missing. */
static void near_group(
    const uint64_t *const *query, const uint64_t *codes, const int64_t *errors, int64_t words,
    const int64_t *limit, int64_t (*steps)[GROUP], unsigned *near) {
#ifdef __AVX512BW__
    __m512i sum[AT_ONCE] = {0};
    for (int64_t w = 0; w < words; w++) {
        __m512i rows = _mm512_loadu_si512(codes + GROUP * w);
        for (int q = 0; q < AT_ONCE; q++)
            sum[q] = _mm512_add_epi64(sum[q], _mm512_sad_epu8(rows, _mm512_set1_epi64(query[q][w])));
    }
    for (int q = 0; q < AT_ONCE; q++) {
        __m512i bound = _mm512_sub_epi64(sum[q], _mm512_loadu_si512(errors));
        near[q] = _mm512_cmple_epi64_mask(bound, _mm512_set1_epi64(limit[q]));
        if (near[q]) _mm512_storeu_si512(steps[q], bound);
    }
#else
#ifdef __AVX2__
    __m256i sum[AT_ONCE][2] = {0};
    for (int64_t w = 0; w < words; w++)
        for (int half = 0; half < 2; half++) {
            __m256i rows = _mm256_loadu_si256((const __m256i *)(codes + GROUP * w) + half);
            for (int q = 0; q < AT_ONCE; q++)
                sum[q][half] = _mm256_add_epi64(
                    sum[q][half], _mm256_sad_epu8(rows, _mm256_set1_epi64x(query[q][w])));
        }
    for (int q = 0; q < AT_ONCE; q++)
        for (int half = 0; half < 2; half++)
            _mm256_storeu_si256((__m256i *)steps[q] + half, sum[q][half]);
#else
    for (int q = 0; q < AT_ONCE; q++)
        for (int r = 0; r < GROUP; r++) {
            steps[q][r] = 0;
            for (int64_t w = 0; w < words; w++)
                steps[q][r] += l1_8((const uint8_t *)(query[q] + w), (const uint8_t *)(codes + GROUP * w + r), 8);
        }
#endif
    for (int q = 0; q < AT_ONCE; q++) {
        near[q] = 0;
        for (int r = 0; r < GROUP; r++) {
            steps[q][r] -= errors[r];
            near[q] |= (unsigned)(steps[q][r] <= limit[q]) << r;
        }
    }
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
    if (own && queries->ids && queries->ids[query] == database->ids[row]) return; /* itself */
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

/* Measure what may be nearest: the lowest bound first, as it lowers the limit for all others. */
static void examine_all(
    const Database *database, const Queries *queries, int64_t query, const Candidates *some, int own,
    int64_t *kept) {
    if (!some->count) return;
    kept[0]++;
    examine(database, queries, query, some->rows[some->lowest], own, kept);
    for (int64_t i = 0; i < some->count; i++) {
        if (i == some->lowest || some->steps[i] > step_limit(database, queries, query, own)) continue;
        kept[0]++;
        examine(database, queries, query, some->rows[i], own, kept);
    }
}

static void collect(Candidates *found, const Tile *tile, int64_t first, unsigned near, const int64_t *steps) {
    for (; near; near &= near - 1) {
        int r = __builtin_ctz(near);
        found->rows[found->count] = tile->rows[first + r];
        found->steps[found->count] = steps[r];
        if (steps[r] < found->steps[found->lowest]) found->lowest = found->count;
        found->count++;
    }
}

static void search_tile(
    const Database *database, const Queries *queries, const Tile *tile, int own, int64_t *kept) {
    static _Thread_local Candidates found[AT_ONCE];
    int64_t words = database->words, limit[AT_ONCE], steps[AT_ONCE][GROUP];
    const uint64_t *code[AT_ONCE];
    unsigned near[AT_ONCE];
    for (int64_t start = 0; start < queries->count; start += AT_ONCE) {
        int64_t some = queries->count - start < AT_ONCE ? queries->count - start : AT_ONCE;
        for (int64_t q = 0; q < AT_ONCE; q++) {
            int64_t query = start + (q < some ? q : 0);
            code[q] = queries->codes + query * words;
            limit[q] = q < some ? step_limit(database, queries, query, own) : INT64_MIN;
            found[q].count = found[q].lowest = 0;
        }
        for (int64_t first = 0; first < tile->count; first += GROUP) {
            near_group(code, tile->codes + first * words, tile->errors + first, words, limit, steps, near);
            for (int q = 0; q < AT_ONCE; q++)
                if (near[q]) collect(found + q, tile, first, near[q], steps[q]);
        }
        for (int64_t q = 0; q < some; q++)
            examine_all(database, queries, start + q, found + q, own, kept);
    }
}

/* The nearest of each query among rows start to stop, all of the queries' own class or all of others.

   Tiles take every so many rows: each is a sample of all classes, and limits fall early.
   ``kept`` int64 [2 + levels] counts pairs left by the codes, by each level, and distances measured.
   ``scratch`` has 8 * words * TILE bytes. */
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
        tile.count = count;
        search_tile(database, queries, &tile, own, kept);
    }
}
