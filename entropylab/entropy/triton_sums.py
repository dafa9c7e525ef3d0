"""The kernel that sums the statistics of rows over the rows of each head. Importing this module imports Triton."""

# mypy: disable-error-code="no-untyped-def"

import triton
import triton.language as tl


@triton.jit
def chosen(INDEX: tl.constexpr, entropy, lse, mean, variance, third, fourth, sensitivity):
    """One of the statistics, by its number."""
    value = entropy
    if INDEX == 1:
        value = lse
    if INDEX == 2:
        value = mean
    if INDEX == 3:
        value = variance
    if INDEX == 4:
        value = third
    if INDEX == 5:
        value = fourth
    if INDEX == 6:
        value = sensitivity
    return value


@triton.jit
def part_keys(counts, at, row, keys, part_count, MASKED: tl.constexpr, CAUSAL: tl.constexpr, inside):
    """How many keys of a part rows have, float64."""
    if MASKED:
        number = tl.load(counts + part_count + at, mask=inside, other=0)
    elif CAUSAL:
        number = tl.minimum(row + 1, keys)
    else:
        number = row * 0 + keys
    return number.to(tl.float64)


@triton.jit
def part_value(found, at, inside, number):
    """A statistic of rows among the keys of a part, float64; 0 where there is no key."""
    return tl.where(number > 0, tl.load(found + at, mask=inside, other=0.0).to(tl.float64), 0.0)


@triton.jit
def in_column(columns, column, values, good):
    """The sum of ``values`` over good rows, in its column of all."""
    return tl.where(columns == column, tl.sum(tl.where(good, values, 0.0), 0), 0.0)


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
    PARTS: tl.constexpr, SPLIT: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr, COUNTED: tl.constexpr,
    BETWEEN: tl.constexpr, OF_PART: tl.constexpr, NUMBERS: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The sums over query rows ``begin`` to ``end`` of one head, in float64; see ``sums.py`` for what they are.

    found (PARTS, FOUND, batch, heads, queries) float32 and, if MASKED, counts (PARTS, batch, heads, queries) int64 are
    what ``row_kernel`` left of each part of the keys; else the parts have ``keys_0`` to ``keys_3`` keys each. counted
    are bytes (batch, heads, queries) by their strides, if COUNTED; sums (batch, heads, NUMBERS). ENTROPY to SENSITIVITY
    are places along FOUND, or -1; WANTED has a bit for each statistic to be summed. Where the keys are SPLIT, entropy
    and LSE must be among what was found, and whole rows come from their parts by the chain rule and total variance.
    """
    head_map = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, COLUMNS)
    total = tl.full((COLUMNS,), 0.0, tl.float64)
    part_step = tl.cast(statistic, tl.int64) * FOUND
    far = tl.cast(statistic, tl.int64)
    for start in tl.range(begin, end, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = row < end
        at = head_map * queries + row
        counts_here = inside
        if COUNTED:
            places = (head_map // heads) * counted_batch + (head_map % heads) * counted_head
            places += row.to(tl.int64) * counted_row
            counts_here = inside & (tl.load(counted + places, mask=inside, other=0) != 0)

        keys = tl.full((ROWS,), 0.0, tl.float64)
        top = tl.full((ROWS,), float("-inf"), tl.float64)
        mean = tl.full((ROWS,), 0.0, tl.float64)
        for part in tl.static_range(PARTS):
            size = keys_0 if part == 0 else keys_1 if part == 1 else keys_2 if part == 2 else keys_3
            number = part_keys(counts, at, row, size, part * far, MASKED, CAUSAL, inside)
            keys += number
            mean += number * part_value(found + part * part_step + MEAN * far, at, inside, number)
            if SPLIT:
                lse = part_value(found + part * part_step + LSE * far, at, inside, number)
                top = tl.maximum(top, tl.where(number > 0, lse, float("-inf")))
        some = tl.where(keys > 0, keys, 1.0)
        mean = mean / some

        entropy = tl.full((ROWS,), 0.0, tl.float64)
        whole = tl.full((ROWS,), 0.0, tl.float64)
        variance = tl.full((ROWS,), 0.0, tl.float64)
        third = tl.full((ROWS,), 0.0, tl.float64)
        fourth = tl.full((ROWS,), 0.0, tl.float64)
        sensitivity = tl.full((ROWS,), 0.0, tl.float64)
        between = tl.full((ROWS,), 0.0, tl.float64)
        expected = tl.full((ROWS,), 0.0, tl.float64)
        if SPLIT:
            for part in tl.static_range(PARTS):
                size = keys_0 if part == 0 else keys_1 if part == 1 else keys_2 if part == 2 else keys_3
                number = part_keys(counts, at, row, size, part * far, MASKED, CAUSAL, inside)
                lse = part_value(found + part * part_step + LSE * far, at, inside, number)
                whole += tl.where(number > 0, tl.exp(lse - top), 0.0)
            whole = top + tl.log(tl.where(keys > 0, whole, 1.0))
            for part in tl.static_range(PARTS):
                size = keys_0 if part == 0 else keys_1 if part == 1 else keys_2 if part == 2 else keys_3
                number = part_keys(counts, at, row, size, part * far, MASKED, CAUSAL, inside)
                own = found + part * part_step
                lse = part_value(own + LSE * far, at, inside, number)
                own_entropy = part_value(own + ENTROPY * far, at, inside, number)
                mass = tl.where(number > 0, tl.exp(lse - whole), 0.0)
                between -= tl.where(mass == 0, 0.0, mass * tl.log(tl.where(mass == 0, 1.0, mass)))
                entropy += mass * own_entropy
                expected += mass * (lse - own_entropy)
            entropy += between
            for part in tl.static_range(PARTS):
                size = keys_0 if part == 0 else keys_1 if part == 1 else keys_2 if part == 2 else keys_3
                number = part_keys(counts, at, row, size, part * far, MASKED, CAUSAL, inside)
                own = found + part * part_step
                share = number / some
                shift = tl.where(number > 0, part_value(own + MEAN * far, at, inside, number) - mean, 0.0)
                if VARIANCE >= 0:
                    second = part_value(own + VARIANCE * far, at, inside, number)
                    variance += share * (second + shift * shift)
                    if THIRD >= 0:
                        cubic = part_value(own + THIRD * far, at, inside, number)
                        third += share * (cubic + 3 * shift * second + shift * shift * shift)
                        if FOURTH >= 0:
                            moment = part_value(own + FOURTH * far, at, inside, number) + 3 * second * second
                            moment += 4 * shift * cubic + 6 * shift * shift * second + shift * shift * shift * shift
                            fourth += share * moment
                if SENSITIVITY >= 0:
                    lse = part_value(own + LSE * far, at, inside, number)
                    apart = lse - part_value(own + ENTROPY * far, at, inside, number) - expected
                    mass = tl.where(number > 0, tl.exp(lse - whole), 0.0)
                    own_spread = part_value(own + SENSITIVITY * far, at, inside, number)
                    sensitivity += mass * (own_spread + apart * apart)
            fourth -= 3 * variance * variance
        else:
            if ENTROPY >= 0:
                entropy = part_value(found + ENTROPY * far, at, inside, keys)
            if LSE >= 0:
                whole = part_value(found + LSE * far, at, inside, keys)
            if VARIANCE >= 0:
                variance = part_value(found + VARIANCE * far, at, inside, keys)
            if THIRD >= 0:
                third = part_value(found + THIRD * far, at, inside, keys)
            if FOURTH >= 0:
                fourth = part_value(found + FOURTH * far, at, inside, keys)
            if SENSITIVITY >= 0:
                sensitivity = part_value(found + SENSITIVITY * far, at, inside, keys)

        probe = mean
        for index in tl.static_range(7):
            if (WANTED >> index) & 1:
                probe += chosen(index, entropy, whole, mean, variance, third, fourth, sensitivity)
        ran = counts_here & (keys > 0)
        good = ran & (tl.abs(probe) < float("inf"))  # false for NaN as well
        one = tl.full((ROWS,), 1.0, tl.float64)
        total += in_column(columns, 0, one, good)
        total += in_column(columns, 1, one, counts_here & (keys == 0))
        total += in_column(columns, 2, one, ran & (good == 0))
        total += in_column(columns, 3, keys, ran)
        for index in tl.static_range(7):
            if (WANTED >> index) & 1:
                value = chosen(index, entropy, whole, mean, variance, third, fourth, sensitivity)
                total += in_column(columns, 4 + index, value, good)
                total += in_column(columns, 11 + index, value * value, good)
        if SPLIT:
            total += in_column(columns, BETWEEN, between, good)
            for part in tl.static_range(PARTS):
                size = keys_0 if part == 0 else keys_1 if part == 1 else keys_2 if part == 2 else keys_3
                number = part_keys(counts, at, row, size, part * far, MASKED, CAUSAL, inside)
                own = found + part * part_step
                there = good & (number > 0)
                lse = part_value(own + LSE * far, at, inside, number)
                own_entropy = part_value(own + ENTROPY * far, at, inside, number)
                mass = tl.where(number > 0, tl.exp(lse - whole), 0.0)
                total += in_column(columns, BETWEEN + 1 + part * OF_PART, one, there)
                total += in_column(columns, BETWEEN + 2 + part * OF_PART, number, there)
                total += in_column(columns, BETWEEN + 3 + part * OF_PART, mass, there)
                total += in_column(columns, BETWEEN + 4 + part * OF_PART, mass * own_entropy, there)
                total += in_column(columns, BETWEEN + 5 + part * OF_PART, own_entropy, there)
                if VARIANCE >= 0:
                    second = part_value(own + VARIANCE * far, at, inside, number)
                    total += in_column(columns, BETWEEN + 6 + part * OF_PART, second, there)
    tl.store(sums + head_map * NUMBERS + columns, total, mask=columns < NUMBERS)
