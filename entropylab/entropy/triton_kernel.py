"""The fused kernels themselves. Importing this module imports Triton: only ``triton.py`` does, when it launches.

Of `row_kernel` one program owns a block of query rows of one head and walks once over the keys. Of every tile of logits
it keeps, per row and in float32, what merges with the next tile without subtracting large numbers:

- the running maximum ``top``, ``total = sum 2^z`` and ``first = sum z 2^z`` with ``z = (x - top) log2(e) <= 0``. All
  terms of a sum have one sign, so H = ln total - ln 2 first / total is a sum of two numbers >= 0. The difference is
  taken before the factor, so that ``x`` of 1e4 costs no more digits than it has, and 2^z is what a GPU computes;
- for the sensitivity the weighted sum of squares about the weighted mean, merged as Chan, Golub and LeVeque do;
- for the unweighted cumulants the central moments of the tile, merged as Pebay does. Where the mean of all keys is
  given, <q, mean key> is the mean of the row, and the second moment about it needs no merging.

``x`` is the bare product <q, k>, scaled only at the end, unless an additive mask must be added to it.
"""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
TINY = tl.constexpr(1e-37)


@triton.jit
def load_tokens(pointers, inside, dims, HEAD: tl.constexpr, PADDED: tl.constexpr, CUT: tl.constexpr):
    """A tile of q (tokens, dims) or of k (dims, tokens); zeros beyond the last token and the last dimension."""
    if PADDED and CUT:
        tile = tl.load(pointers, mask=inside & (dims < HEAD), other=0.0)
    elif PADDED:
        tile = tl.load(pointers, mask=dims < HEAD, other=0.0)
    elif CUT:
        tile = tl.load(pointers, mask=inside, other=0.0)
    else:
        tile = tl.load(pointers)
    return tile


@triton.jit
def add(total, lost, term, CAREFUL: tl.constexpr):
    """``total + term``, and if CAREFUL what the sum lost to rounding, to be made up for by the next (Kahan)."""
    if CAREFUL:
        term = term - lost
        whole = total + term
        lost = (whole - total) - term
    else:
        whole = total + term
    return whole, lost


@triton.jit
def merge_weights(
    top, total, first, spread, lost_total, lost_first, lost_spread, x, left, per_unit,
    SPREAD: tl.constexpr, CAREFUL: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """Fold a tile of logits ``x`` (rows, keys) into the softmax sums (rows,)."""
    highest = tl.maximum(top, tl.max(x, 1))
    level, before = highest, top
    if CUT:  # a row without a key so far has the maximum -inf, which must not be subtracted from itself
        level = tl.where(highest == float("-inf"), 0.0, highest)
    before = tl.where(top == float("-inf"), level, top)
    if CAREFUL:
        z = (x - level[:, None]) * per_unit
        move = (before - level) * per_unit
    else:  # one instruction; the rounded product is the same for all keys of the row
        z = x * per_unit - (level * per_unit)[:, None]
        move = before * per_unit - level * per_unit
    weight = tl.exp2(z)
    if CUT:
        z = tl.where(left, z, 0.0)
        weight = tl.where(left, weight, 0.0)
    fade = tl.exp2(move)
    old, new = total * fade, tl.sum(weight, 1)
    old_first, new_first = fade * (first + move * total), tl.sum(weight * z, 1)
    if SPREAD:
        new_mean = new_first / tl.maximum(new, TINY)
        centred = z - new_mean[:, None]
        apart = new_mean - old_first / tl.maximum(old, TINY)
        joined = apart * apart * old * (new / tl.maximum(old + new, TINY))
        new_spread = tl.sum(weight * centred * centred, 1) + joined
        spread, lost_spread = add(spread * fade, lost_spread * fade, new_spread, CAREFUL)
    first, lost_first = add(old_first, fade * (lost_first + move * lost_total), new_first, CAREFUL)
    total, lost_total = add(old, lost_total * fade, new, CAREFUL)
    return highest, total, first, spread, lost_total, lost_first, lost_spread


@triton.jit
def merge_moments(
    count, mean, second, third, fourth, lost_mean, lost_second, lost_third, lost_fourth, x, left, here,
    MOMENTS: tl.constexpr, CAREFUL: tl.constexpr, CUT: tl.constexpr,
):  # fmt: skip
    """Fold a tile of logits ``x`` (rows, keys), ``here`` (rows,) of them left, into the central moments (rows,)."""
    if CUT:
        x = tl.where(left, x, 0.0)
    tile_mean = tl.sum(x, 1) / tl.maximum(here, 1.0)
    apart = (tile_mean - mean) + lost_mean
    share = here / tl.maximum(count + here, 1.0)
    rest = 1.0 - share
    if MOMENTS >= 2:
        centred = x - tile_mean[:, None]
        if CUT:
            centred = tl.where(left, centred, 0.0)
        square = centred * centred
        tile_second = tl.sum(square, 1)
        between = apart * apart * count * share
        if MOMENTS >= 3:
            tile_third = tl.sum(square * centred, 1)
            if MOMENTS >= 4:
                more = tl.sum(square * square, 1) + between * apart * apart * (1.0 - 3.0 * share * rest)
                more += 6.0 * apart * apart * (rest * rest * tile_second + share * share * second)
                more += 4.0 * apart * (rest * tile_third - share * third)
                fourth, lost_fourth = add(fourth, lost_fourth, more, CAREFUL)
            more = tile_third + between * apart * (rest - share)
            more += 3.0 * apart * (rest * tile_second - share * second)
            third, lost_third = add(third, lost_third, more, CAREFUL)
        second, lost_second = add(second, lost_second, tile_second + between, CAREFUL)
    mean, lost_mean = add(mean, lost_mean, apart * share, True)
    return mean, second, third, fourth, lost_mean, lost_second, lost_third, lost_fourth


@triton.jit
def put(out, PLACE: tl.constexpr, step, values, inside):
    """Write a statistic of rows to its place, if it has one."""
    if PLACE >= 0:
        tl.store(out + PLACE * step, values, mask=inside)


STRIDES = [f"{name}_{dimension}" for name in ("q", "k", "mask") for dimension in ("batch", "head", "row")]


@triton.jit(do_not_specialize=[*STRIDES, "out_statistic", "queries", "keys", "heads", "group"])
def row_kernel(
    q, k, mask, centre, out, counts,
    q_batch, q_head, q_row, q_dim,
    k_batch, k_head, k_row, k_dim,
    mask_batch, mask_head, mask_row, mask_key,
    out_statistic, queries, keys, heads, group, scale, lowest,
    ENTROPY: tl.constexpr, LSE: tl.constexpr, MEAN: tl.constexpr, VARIANCE: tl.constexpr,
    THIRD: tl.constexpr, FOURTH: tl.constexpr, SENSITIVITY: tl.constexpr,
    MASK: tl.constexpr, MASK_BY_ROW: tl.constexpr, CAUSAL: tl.constexpr, CENTRE: tl.constexpr,
    HEAD: tl.constexpr, DIMS: tl.constexpr, MORE_DIMS: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    CAREFUL: tl.constexpr, ALIGNED: tl.constexpr, MASK_ALIGNED: tl.constexpr,
):  # fmt: skip
    """Statistics of ``ROWS`` query rows of one head.

    q (batch, heads, queries, HEAD), k (batch, heads / group, keys, HEAD) and mask (batch, heads, queries, keys) by
    their strides; out (statistics, batch, heads, queries) float32 and counts (batch, heads, queries) int64, rows
    contiguous. ENTROPY to SENSITIVITY are places along out, -1 if not asked for. MASK is "", "boolean" (bytes) or
    "additive", where values of ``lowest`` or less leave the key out. With CENTRE, ``centre`` (batch, heads / group,
    HEAD) is the float32 mean of the keys; then no key may be left out, and no cumulant beyond the second be asked for.
    The head dimension is multiplied in a block of DIMS and, if not 0, one of MORE_DIMS, together at least HEAD.

    CAREFUL makes up for what sums over tiles lose: over thousands of tiles it would cost float32 input a digit, and is
    cheap beside float32 products.

    Strides other than those of dimensions and of mask keys come divided by ALIGNED and MASK_ALIGNED: what the compiler
    knows to be a multiple it loads in one piece, and head dimensions like 40 are no multiple of 16, the only one it
    looks for by itself.
    """
    LEVEL: tl.constexpr = ENTROPY >= 0 or LSE >= 0  # Triton 3.2 and 3.3 know no "a or b or c"
    SOFTMAX: tl.constexpr = LEVEL or SENSITIVITY >= 0
    MOMENTS: tl.constexpr = 4 if FOURTH >= 0 else 3 if THIRD >= 0 else 2 if VARIANCE >= 0 else 1 if MEAN >= 0 else 0
    COUNT: tl.constexpr = MOMENTS > 0 or MASK != ""

    blocks = (queries + ROWS - 1) // ROWS
    head_map = tl.program_id(0) // blocks
    block = tl.program_id(0) % blocks
    if CAUSAL:  # the longest rows first, so that the last programs to run are short
        block = blocks - 1 - block
    batch, head = (head_map // heads).to(tl.int64), (head_map % heads).to(tl.int64)

    # 64-bit: of 65,536 x 65,536 mask values the last lies beyond 2^31.
    first_row = block * ROWS
    row = first_row + tl.arange(0, ROWS)
    row_inside = row < queries
    far_row = row.to(tl.int64)[:, None]
    column = tl.arange(0, KEYS)
    far_column = column.to(tl.int64)[None, :]

    dims = tl.arange(0, DIMS)
    more_dims = DIMS + tl.arange(0, MORE_DIMS if MORE_DIMS > 0 else 1)
    q += (batch * q_batch + head * q_head) * ALIGNED
    k += (batch * k_batch + (head // group) * k_head) * ALIGNED
    q_rows = q + far_row * q_row * ALIGNED
    k_rows = k + far_column * k_row * ALIGNED
    q_pointers = q_rows + dims[None, :].to(tl.int64) * q_dim
    q_tile = load_tokens(q_pointers, row_inside[:, None], dims[None, :], HEAD, DIMS > HEAD, True)
    k_pointers = k_rows + dims[:, None].to(tl.int64) * k_dim
    if MORE_DIMS > 0:
        more_pointers = q_rows + more_dims[None, :].to(tl.int64) * q_dim
        are_too_many: tl.constexpr = DIMS + MORE_DIMS > HEAD
        more_q_tile = load_tokens(more_pointers, row_inside[:, None], more_dims[None, :], HEAD, are_too_many, True)
        more_k_pointers = k_rows + more_dims[:, None].to(tl.int64) * k_dim
    if MASK != "":
        mask += (batch * mask_batch + head * mask_head) * MASK_ALIGNED + far_column * mask_key
        if MASK_BY_ROW:
            mask += far_row * mask_row * MASK_ALIGNED

    unit = scale
    if MASK == "additive":
        unit = scale * 0.0 + 1.0
    per_unit = unit * LOG2_E

    zero = tl.zeros((ROWS,), tl.float32)
    top = zero + float("-inf")
    total, first, spread, count = zero, zero, zero, zero
    mean, second, third, fourth = zero, zero, zero, zero
    lost_total, lost_first, lost_spread = zero, zero, zero
    lost_mean, lost_second, lost_third, lost_fourth = zero, zero, zero, zero

    if CENTRE:
        centre += (batch * (heads // group) + head // group) * HEAD
        middle = tl.load(centre + dims, mask=dims < HEAD, other=0.0)
        mean = tl.sum(q_tile.to(tl.float32) * middle[None, :], 1)
        if MORE_DIMS > 0:
            more_middle = tl.load(centre + more_dims, mask=more_dims < HEAD, other=0.0)
            mean += tl.sum(more_q_tile.to(tl.float32) * more_middle[None, :], 1)

    stop = keys
    if CAUSAL:
        stop = tl.minimum(keys, first_row + ROWS)
    whole = stop // KEYS * KEYS
    if CAUSAL:
        whole = tl.minimum(keys, first_row + 1) // KEYS * KEYS

    # Whole tiles first, then those cut by a mask, by the diagonal or by the last key.
    for CUT in tl.static_range(1 if MASK != "" else 0, 2):
        begin, end = 0, whole
        if CUT:
            end = stop
            if MASK == "":
                begin = whole
        for start in tl.range(begin, end, KEYS):
            far_start = tl.cast(start, tl.int64) * k_row * ALIGNED
            inside = (start + column < keys)[None, :]
            k_tile = load_tokens(k_pointers + far_start, inside, dims[:, None], HEAD, DIMS > HEAD, CUT)
            x = tl.dot(q_tile, k_tile, input_precision="ieee")
            if MORE_DIMS > 0:
                far_pointers = more_k_pointers + far_start
                more_k_tile = load_tokens(far_pointers, inside, more_dims[:, None], HEAD, are_too_many, CUT)
                x = tl.dot(more_q_tile, more_k_tile, x, input_precision="ieee")
            left = inside
            here = tl.full((ROWS,), KEYS, tl.float32)
            if CUT:
                if CAUSAL:
                    left = left & ((start + column)[None, :] <= row[:, None])
                if MASK != "":
                    mask_inside = inside
                    if MASK_BY_ROW:
                        mask_inside = inside & row_inside[:, None]
                    value = tl.load(mask + tl.cast(start, tl.int64) * mask_key, mask=mask_inside, other=0)
                    if MASK == "boolean":
                        left = left & (value != 0)
                    else:
                        value = value.to(tl.float32)
                        left = left & ((value <= lowest) == 0)
                        x = x * scale + value
                left = tl.broadcast_to(left, (ROWS, KEYS))
                x = tl.where(left, x, float("-inf"))
                if COUNT:
                    here = tl.sum(left.to(tl.float32), 1)
            if SOFTMAX:
                top, total, first, spread, lost_total, lost_first, lost_spread = merge_weights(
                    top, total, first, spread, lost_total, lost_first, lost_spread, x, left, per_unit,
                    SENSITIVITY >= 0, CAREFUL, CUT,
                )  # fmt: skip
            if CENTRE:
                centred = x - mean[:, None]
                if CUT:
                    centred = tl.where(left, centred, 0.0)
                second += tl.sum(centred * centred, 1)
            elif MOMENTS > 0:
                mean, second, third, fourth, lost_mean, lost_second, lost_third, lost_fourth = merge_moments(
                    count, mean, second, third, fourth, lost_mean, lost_second, lost_third, lost_fourth, x, left, here,
                    MOMENTS, CAREFUL, CUT,
                )  # fmt: skip
            count += here

    # A row with no key divides by 1 here and is NaN in the end, as is one of a logit that is not finite.
    none = count == 0
    nothing = tl.where(none, float("nan"), 0.0)
    if SOFTMAX:
        nothing += first - first
    elif CENTRE:
        nothing += second - second
    elif MOMENTS > 0:
        nothing += mean - mean
    total = tl.where(none, 1.0, total)
    count = tl.where(none, 1.0, count)
    at = head_map.to(tl.int64) * queries + row
    out += at
    if MASK != "":
        tl.store(counts + at, tl.where(none, 0.0, count).to(tl.int64), mask=row_inside)
    if SOFTMAX:
        entropy = tl.log(total) - first / total * LN_2
        put(out, ENTROPY, out_statistic, tl.where(entropy < 0, 0.0, entropy) + nothing, row_inside)
        put(out, LSE, out_statistic, tl.log(total) + tl.where(none, 0.0, top) * unit + nothing, row_inside)
        put(out, SENSITIVITY, out_statistic, spread / total * (LN_2 * LN_2) + nothing, row_inside)
    variance = second / count * unit * unit
    moment = fourth / count * unit * unit * unit * unit
    put(out, MEAN, out_statistic, mean * unit + nothing, row_inside)
    put(out, VARIANCE, out_statistic, variance + nothing, row_inside)
    put(out, THIRD, out_statistic, third / count * unit * unit * unit + nothing, row_inside)
    put(out, FOURTH, out_statistic, moment - 3.0 * variance * variance + nothing, row_inside)


@triton.jit
def values_of(found, PLACE: tl.constexpr, step, here):
    """A statistic (parts, rows), float64; 0 where there is no key, and where it was not found."""
    if PLACE >= 0:
        values = tl.load(found + PLACE * step, mask=here, other=0.0).to(tl.float64)
    else:
        values = tl.where(here, 0.0, 0.0).to(tl.float64)
    return values


@triton.jit
def in_columns(columns, INDEX: tl.constexpr, WANTED: tl.constexpr, values, good):
    """The sum of a statistic (rows,) over good rows and that of its squares, in their columns, if it is wanted."""
    total = tl.zeros_like(columns).to(tl.float64)
    if (WANTED >> INDEX) & 1:
        values = tl.where(good, values, 0.0)
        total = tl.where(columns == 4 + INDEX, tl.sum(values, 0), total)
        total = tl.where(columns == 11 + INDEX, tl.sum(values * values, 0), total)
    return total


@triton.jit
def part_column(columns, column, values, there):
    """The sum of values (parts, rows) over rows that have keys there, in its column (parts, columns)."""
    return tl.where(columns == column, tl.sum(tl.where(there, values, 0.0), 1)[:, None], 0.0)


@triton.jit(
    do_not_specialize=[
        "counted_batch", "counted_head", "counted_row", "begin", "end", "queries", "heads", "statistic",
        "keys_0", "keys_1", "keys_2", "keys_3",
    ]
)  # fmt: skip
def sum_kernel(
    found, counts, counted, sums,
    counted_batch, counted_head, counted_row, begin, end, queries, heads, statistic,
    keys_0, keys_1, keys_2, keys_3,
    ENTROPY: tl.constexpr, LSE: tl.constexpr, MEAN: tl.constexpr, VARIANCE: tl.constexpr,
    THIRD: tl.constexpr, FOURTH: tl.constexpr, SENSITIVITY: tl.constexpr, FOUND: tl.constexpr, WANTED: tl.constexpr,
    PIECES: tl.constexpr, PARTS: tl.constexpr, SPLIT: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr,
    COUNTED: tl.constexpr, NUMBERS: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The sums over query rows ``begin`` to ``end`` of one head, in float64; see ``sums.py`` for what they are.

    found (PIECES, FOUND, batch, heads, queries) float32 and, if MASKED, counts (PIECES, batch, heads, queries) int64
    are what ``row_kernel`` left of each part of the keys; else the parts have ``keys_0`` to ``keys_3`` keys each.
    counted are bytes (batch, heads, queries) by their strides, if COUNTED; sums (batch, heads, NUMBERS). ENTROPY to
    SENSITIVITY are places along FOUND, or -1; WANTED has a bit for each statistic to be summed. Where the keys are
    SPLIT, whole rows come from their parts by the chain rule and total variance, as in ``parts.joined``; a single part
    has the weight 1, and the same formulas leave its statistics as they are. PARTS is PIECES or the next power of two.
    """
    BETWEEN: tl.constexpr = 4 + 2 * 7
    FIRST: tl.constexpr = BETWEEN + 1
    OF_PART: tl.constexpr = 6
    head_map = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    part_columns = tl.arange(0, 8)[None, :]
    part = tl.arange(0, PARTS)[:, None]
    sizes = tl.where(part == 0, keys_0, tl.where(part == 1, keys_1, tl.where(part == 2, keys_2, keys_3)))
    total = tl.zeros((COLUMNS,), tl.float64)
    of_parts = tl.zeros((PARTS, 8), tl.float64)
    step = tl.cast(statistic, tl.int64)
    for start in tl.range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = row < end
        at = head_map * queries + row
        counts_here = inside
        if COUNTED:
            places = (head_map // heads) * counted_batch + (head_map % heads) * counted_head
            places += row.to(tl.int64) * counted_row
            counts_here = inside & (tl.load(counted + places, mask=inside, other=0) != 0)

        if MASKED:
            there = inside[None, :] & (part < PIECES)
            number = tl.load(counts + part * step + at[None, :], mask=there, other=0).to(tl.float64)
        elif CAUSAL:
            number = tl.where(inside[None, :], tl.minimum(row[None, :] + 1, sizes), 0).to(tl.float64)
        else:
            number = tl.where(inside[None, :], sizes, 0).to(tl.float64)
        keys = tl.sum(number, 0)
        here = number > 0
        own = found + part * step * FOUND + at[None, :]
        own_entropy, lse = values_of(own, ENTROPY, step, here), values_of(own, LSE, step, here)
        if SPLIT:
            top = tl.max(tl.where(here & (lse == lse), lse, float("-inf")), 0)
            top = tl.where(top == float("-inf"), 0.0, top)
            weight = tl.where(here, tl.exp(lse - top[None, :]), 0.0)
            whole = tl.where(keys > 0, tl.sum(weight, 0), 1.0)
            mass = weight / whole[None, :]
            whole = top + tl.log(whole)
        else:
            mass, whole = tl.where(here, 1.0, 0.0).to(tl.float64), tl.sum(lse, 0)
        entropy = tl.sum(mass * own_entropy, 0)
        if SPLIT:
            between = -tl.sum(mass * tl.log(tl.where(mass == 0, 1.0, mass)), 0)
            entropy += between
        expected = lse - own_entropy
        apart = expected - tl.sum(mass * expected, 0)[None, :]
        sensitivity = tl.sum(mass * (values_of(own, SENSITIVITY, step, here) + apart * apart), 0)

        share = number / tl.where(keys > 0, keys, 1.0)[None, :]
        own_mean = values_of(own, MEAN, step, here)
        mean = tl.sum(share * own_mean, 0)
        shift = tl.where(here, own_mean - mean[None, :], 0.0)
        second, cubic = values_of(own, VARIANCE, step, here), values_of(own, THIRD, step, here)
        variance = tl.sum(share * (second + shift * shift), 0)
        third = tl.sum(share * (cubic + 3 * shift * second + shift * shift * shift), 0)
        moment = values_of(own, FOURTH, step, here) + 3 * second * second
        moment += 4 * shift * cubic + 6 * shift * shift * second + shift * shift * shift * shift
        fourth = tl.sum(share * moment, 0) - 3 * variance * variance

        probe = mean
        if SENSITIVITY >= 0:
            probe += sensitivity
        if FOURTH >= 0:
            probe += fourth
        if THIRD >= 0:
            probe += third
        if VARIANCE >= 0:
            probe += variance
        ran = counts_here & (keys > 0)
        good = ran & (tl.abs(probe + entropy + whole) < float("inf"))  # false for NaN as well
        one = tl.full((ROWS,), 1.0, tl.float64)
        total += tl.where(columns == 0, tl.sum(tl.where(good, one, 0.0), 0), 0.0)
        total += tl.where(columns == 1, tl.sum(tl.where(counts_here & (keys == 0), one, 0.0), 0), 0.0)
        total += tl.where(columns == 2, tl.sum(tl.where(ran & (good == 0), one, 0.0), 0), 0.0)
        total += tl.where(columns == 3, tl.sum(tl.where(ran, keys, 0.0), 0), 0.0)
        total += in_columns(columns, 0, WANTED, entropy, good)
        total += in_columns(columns, 1, WANTED, whole, good)
        total += in_columns(columns, 2, WANTED, mean, good)
        total += in_columns(columns, 3, WANTED, variance, good)
        total += in_columns(columns, 4, WANTED, third, good)
        total += in_columns(columns, 5, WANTED, fourth, good)
        total += in_columns(columns, 6, WANTED, sensitivity, good)
        if SPLIT:
            total += tl.where(columns == BETWEEN, tl.sum(tl.where(good, between, 0.0), 0), 0.0)
            there = here & good[None, :]
            of_parts += part_column(part_columns, 0, tl.where(here, 1.0, 0.0).to(tl.float64), there)
            of_parts += part_column(part_columns, 1, number, there)
            of_parts += part_column(part_columns, 2, mass, there)
            of_parts += part_column(part_columns, 3, mass * own_entropy, there)
            of_parts += part_column(part_columns, 4, own_entropy, there)
            of_parts += part_column(part_columns, 5, second, there)
    sums += head_map * NUMBERS
    are_of_parts = (columns >= FIRST) & (columns < FIRST + PARTS * OF_PART)
    tl.store(sums + columns, total, mask=(columns < NUMBERS) & (are_of_parts == 0))
    tl.store(sums + FIRST + part * OF_PART + part_columns, of_parts, mask=part_columns + part * 0 < OF_PART)
