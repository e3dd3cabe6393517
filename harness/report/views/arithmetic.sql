-- Arithmetic.

-- Visual imperceptible bound of an image (eq. 3).
create macro sigma(distance, k) as distance / (2 * k);

-- A bound of an interval in per cent, no lower than a lowest and no higher than 100; null stays null.
create macro clipped(x, lowest) as case when x is not null then least(100, greatest(lowest, x)) end;

-- Wilson's 95 % interval of hits among n, in per cent: z = 1.959964, z*z = 3.841459.
create macro wilson_low(hits, n) as clipped(100
    * (hits + 1.9207294 - 1.959964 * sqrt(hits * (n - hits) / nullif(n, 0) + 0.9603647)) / (n + 3.8414588), 0);
create macro wilson_high(hits, n) as clipped(100
    * (hits + 1.9207294 + 1.959964 * sqrt(hits * (n - hits) / nullif(n, 0) + 0.9603647)) / (n + 3.8414588), 0);

-- Student's t for a 95 % interval: exact to 30 degrees of freedom, then by the expansion in 1 / df (Abramowitz and
-- Stegun 26.7.5), which is right to 6 digits there. Null for none.
create macro t_975(df) as case
    when df between 1 and 30 then [
        12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
        2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
        2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272
    ][df::int]
    when df > 30 then 1.9599640 + 2.3722713 / df + 2.8224986 / (df * df) + 2.5558497 / (df * df * df) end;

-- 95 % interval of a mean accuracy over so many seeds, from the standard deviation s between them with df degrees of
-- freedom; a study of one seed has the interval over the test images instead.
create macro mean_low(mean, s, df, seeds, of_seeds, images_low) as
    if(of_seeds = 1, images_low, clipped(mean - t_975(df) * s / sqrt(nullif(seeds, 0)), 0));
create macro mean_high(mean, s, df, seeds, of_seeds, images_high) as
    if(of_seeds = 1, images_high, clipped(mean + t_975(df) * s / sqrt(nullif(seeds, 0)), 0));

-- The same of the values x of a group's seeds, each with Wilson's (images_low, images_high), where s is their own
-- standard deviation.
create macro seeds_low(x, of_seeds, images_low) as
    mean_low(avg(x), stddev_samp(x), count(x) - 1, count(x), of_seeds, any_value(images_low));
create macro seeds_high(x, of_seeds, images_high) as
    mean_high(avg(x), stddev_samp(x), count(x) - 1, count(x), of_seeds, any_value(images_high));

-- 95 % interval of the difference of two accuracies on the same n images, in per cent: a is right alone on only_a of
-- them, b on only_b (Agresti and Min 2005: Wald's interval with half an image more in each cell of the table).
create macro paired_low(only_a, only_b, n) as clipped(100 * (only_a - only_b
    - 1.959964 * sqrt(only_a + only_b + 1 - pow(only_a - only_b, 2) / (n + 2))) / (n + 2), -100);
create macro paired_high(only_a, only_b, n) as clipped(100 * (only_a - only_b
    + 1.959964 * sqrt(only_a + only_b + 1 - pow(only_a - only_b, 2) / (n + 2))) / (n + 2), -100);

-- The smallest difference, in points, whose interval leaves 0 out where so many images are right for one alone: what n
-- images can show. Where paired_low and paired_high hold 0, the difference is no larger.
create macro paired_least(only_a, only_b, n) as
    100 * 1.959964 * sqrt((only_a + only_b + 1) / (1 + 3.8414588 / (n + 2))) / nullif(n, 0);

-- Exact McNemar test, two-sided: the images that one network alone is right on are heads or tails of a fair coin.
create macro mcnemar(only_a, only_b) as least(1, 2 * list_sum([
    exp(lgamma(only_a + only_b + 1) - lgamma(i + 1) - lgamma(only_a + only_b - i + 1) - (only_a + only_b) * ln(2))
    for i in range(0, least(only_a, only_b) + 1)
]));

-- Whether Newcombe's 95 % interval of the difference of two proportions excludes 0: it is made from
-- the Wilson intervals of both, so that the paper's own sampling error counts as well as ours.
create macro two_proportions_differ(a, a_low, a_high, b, b_low, b_high) as
    case when a > b then a - b > sqrt(pow(a - a_low, 2) + pow(b_high - b, 2))
         else b - a > sqrt(pow(a_high - a, 2) + pow(b - b_low, 2)) end;

-- The smallest count that binomial(n, p) does not exceed with this probability.
create macro binomial_quantile(n, p, probability) as list_position(list_transform(
    range(0, n::bigint + 1), lambda most: list_sum(list_transform(range(0, most + 1), lambda i:
        exp(lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) + i * ln(p) + (n - i) * ln(1 - p))))
    >= probability
), true) - 1;

-- Both sides are floats read from different texts (8/255 and 0.0313725490196): compared with a tolerance.
create macro same_epsilon(a, b) as (a is null and b is null) or coalesce(abs(a - b) < 1e-6, false);

-- Test images behind each number of the paper (IV): 40 of 200 classes of 50 images for Tiny ImageNet.
create macro paper_images(dataset) as case when dataset = 'tinyimagenet' then 2000 else 10000 end;

create macro differs_from_paper(accuracy, low, high, paper, dataset) as two_proportions_differ(
    accuracy, low, high, paper, wilson_low(paper / 100 * paper_images(dataset), paper_images(dataset)),
    wilson_high(paper / 100 * paper_images(dataset), paper_images(dataset))
);

-- Which of 20 bins of equal width from 0 to top a value lies in, counted from 0.
create macro bin_of_20(x, top) as coalesce(least(floor(20 * x / nullif(top, 0)), 19), 0)::int;

-- Tables whose numbers can't be read in the paper's text.
create macro unreadable(paper_dataset) as case when paper_dataset is not null then 'unreadable' end;

-- What the networks of one (k, n) grid share: 'imperceptible bound k=1 n=10' -> 'imperceptible bound'. Two
-- defenses of the same method have names of their own, so their grids stay apart.
create macro without_k_and_n(title) as regexp_replace(title, ' (k|n)=[^ ]+', '', 'g');

-- The value that all rows of a group have; null where they differ.
create macro common(x) as case when min(x) = max(x) and count(x) = count(*) then min(x) end;

-- A radius as people write it: 8/255, 0.3 (harness/settings.py).
create macro epsilon_text(epsilon) as
    case when abs(255 * epsilon - round(255 * epsilon)) < 1e-6 and abs(epsilon - round(epsilon, 2)) > 1e-9
         then (round(255 * epsilon)::int)::varchar || '/255' else format('{:g}', epsilon) end;
