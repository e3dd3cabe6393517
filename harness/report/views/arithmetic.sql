-- Arithmetic.

-- Visual imperceptible bound of an image (eq. 3).
create macro sigma(distance, k) as distance / (2 * k);

-- Wilson's 95 % interval of hits among n, in per cent: z = 1.959964, z*z = 3.841459.
create macro wilson_low(hits, n) as 100
    * (hits + 1.9207294 - 1.959964 * sqrt(hits * (n - hits) / nullif(n, 0) + 0.9603647)) / (n + 3.8414588);
create macro wilson_high(hits, n) as 100
    * (hits + 1.9207294 + 1.959964 * sqrt(hits * (n - hits) / nullif(n, 0) + 0.9603647)) / (n + 3.8414588);

-- Whether Newcombe's 95 % interval of the difference of two proportions excludes 0: it is made from
-- the Wilson intervals of both, so that the paper's own sampling error counts as well as ours.
create macro two_proportions_differ(a, a_low, a_high, b, b_low, b_high) as
    case when a > b then a - b > sqrt(pow(a - a_low, 2) + pow(b_high - b, 2))
         else b - a > sqrt(pow(a_high - a, 2) + pow(b - b_low, 2)) end;

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
