-- The report's tables as SQL views: read them, copy them, change them.
--
-- They stand on the Parquet files that the studies name (see harness/records.py for every column):
--   bound, attack, evaluation, training    one row an image or an epoch, with the study in front
--   benchmark    one row a contender and turn of `harness benchmark`; belongs to no study
--   studies      one row a study: data set, the paper's data set beside it, seed, settings of the score
--   cells        every planned piece of work, and whether its file is there; where it failed, its title and the reason,
--                and whether it waits for another that failed; study is null for the benchmark's
--   planned      every accuracy that a study is to measure, in the study's order (position)
--   paper_table2, paper_black_box, paper_table7    the numbers printed in the paper
--
-- Accuracies and shares are in per cent, distances and epsilon in [0, 1] units. A planned accuracy
-- that isn't measured yet is a row with 0 images and a null accuracy.


-- --- arithmetic -----------------------------------------------------------------------------------

-- Visual imperceptible bound of an image (eq. 3).
create macro sigma(distance, k) as distance / (2 * k);

-- Wilson's 95 % interval of hits among n, in per cent: z = 1.959964, z*z = 3.841459.
create macro wilson_low(hits, n) as
    100 * (hits + 1.9207294 - 1.959964 * sqrt(hits * (n - hits) / nullif(n, 0) + 0.9603647)) / (n + 3.8414588);
create macro wilson_high(hits, n) as
    100 * (hits + 1.9207294 + 1.959964 * sqrt(hits * (n - hits) / nullif(n, 0) + 0.9603647)) / (n + 3.8414588);

-- Whether Newcombe's 95 % interval of the difference of two proportions excludes 0: it is made from
-- the Wilson intervals of both, so that the paper's own sampling error counts as well as ours.
create macro two_proportions_differ(a, a_low, a_high, b, b_low, b_high) as
    case when a > b then a - b > sqrt(pow(a - a_low, 2) + pow(b_high - b, 2))
         else b - a > sqrt(pow(a_high - a, 2) + pow(b - b_low, 2)) end;

-- Both sides are floats read from different texts (8/255 and 0.0313725490196), so they are compared with a tolerance.
create macro same_epsilon(a, b) as (a is null and b is null) or coalesce(abs(a - b) < 1e-6, false);

-- Test images behind each number of the paper (IV): 40 of 200 classes of 50 images for Tiny ImageNet.
create macro paper_images(dataset) as case when dataset = 'tinyimagenet' then 2000 else 10000 end;

-- Tables whose numbers can't be read in the paper's text.
create macro unreadable(paper_dataset) as case when paper_dataset is not null then 'unreadable' end;


-- --- the bound: Table II, Fig. 4 ------------------------------------------------------------------

-- Table II: sigma over the training images, for both readings of "nearest neighbour".
create view table2 as
with distances as (
    select study, neighbours, min(distance) as low, avg(distance) as mean, max(distance) as high
    from bound where split = 'train' group by study, neighbours
)
select s.study, s.dataset, kind.neighbours, kind.k,
       sigma(d.low, kind.k) as sigma_min, sigma(d.mean, kind.k) as sigma_mean, sigma(d.high, kind.k) as sigma_max,
       p.sigma_min as paper_min, p.sigma_mean as paper_mean, p.sigma_max as paper_max
from studies s
cross join (select * from (values ('other_class'), ('any_class')) a(neighbours), (values (1.0::double), (2.0), (2.5), (3.0)) b(k)) kind
left join distances d on d.study = s.study and d.neighbours = kind.neighbours
left join paper_table2 p on p.dataset = s.paper and p.k = kind.k
order by s.study, kind.neighbours desc, kind.k;

-- Fig. 4: share of the training images by distance, 20 bins of equal width from 0 to the largest.
create view class_distance as
with scaled as (
    select study, neighbours, distance, max(distance) over (partition by study, neighbours) as top from bound where split = 'train'
), binned as (
    select study, neighbours, top, coalesce(least(floor(20 * distance / nullif(top, 0)), 19), 0)::int as bin, count(*) as images
    from scaled group by all
), bins as (
    select study, neighbours, top, sum(images) as total, unnest(range(20))::int as bin from binned group by study, neighbours, top
)
select b.study, s.dataset, b.neighbours, b.bin, b.bin * b.top / 20 as low, (b.bin + 1) * b.top / 20 as high,
       coalesce(f.images, 0) as images, coalesce(f.images, 0) / b.total as share
from bins b
join studies s on s.study = b.study
left join binned f on f.study = b.study and f.neighbours = b.neighbours and f.bin = b.bin
order by b.study, b.neighbours desc, b.bin;


-- --- the attacks: Table III, Fig. 5 ---------------------------------------------------------------

-- Table III: which attacks stay within the bound, on the test images (III-B).
--   within_*      share of adversarial images whose mean l1 change is at most sigma
--   effective_*   share that stays within AND fools the network: the definition in the introduction
--   *_mean_sigma  sigma averaged over the training images (the paper's score); *_own_sigma: the image's own
create view effectiveness as
with mean_bound as (
    select b.study, avg(sigma(b.distance, s.effectiveness_k)) as mean_sigma
    from bound b join studies s on s.study = b.study and s.neighbours = b.neighbours
    where b.split = 'train' group by b.study
), own_bound as (
    select b.study, b.image_id, sigma(b.distance, s.effectiveness_k) as own_sigma
    from bound b join studies s on s.study = b.study and s.neighbours = b.neighbours
    where b.split = 'test'
), outcome as (
    select a.study, a.attack, a.epsilon, a.mean_l1, m.mean_sigma, o.own_sigma, a.adversarial_predicted <> a.predicted as fooled
    from attack a
    left join mean_bound m on m.study = a.study
    left join own_bound o on o.study = a.study and o.image_id = a.image_id
    where a.split = 'test'
), score as (  -- a comparison with a bound that is not there is null, and avg() leaves it out
    select study, attack, epsilon, count(*) as images, 100 * avg(fooled::int) as fooled,
           avg(mean_l1) as mean_l1, min(mean_sigma) as mean_sigma,
           100 * avg((mean_l1 <= mean_sigma)::int) as within_mean_sigma,
           100 * avg((mean_l1 <= own_sigma)::int) as within_own_sigma,
           100 * avg((mean_l1 <= mean_sigma)::int * fooled::int) as effective_mean,
           100 * avg((mean_l1 <= own_sigma)::int * fooled::int) as effective_own
    from outcome group by study, attack, epsilon
), planned_attacks as (
    select study, attack, epsilon, min(position) as position from planned where access = 'black_box' group by study, attack, epsilon
)
select s.study, s.dataset, p.attack, p.epsilon, coalesce(c.images, 0) as images, c.fooled, c.mean_l1, c.mean_sigma,
       c.within_mean_sigma, c.within_own_sigma, c.effective_mean, c.effective_own, unreadable(s.paper) as paper
from planned_attacks p
join studies s on s.study = p.study
left join score c on c.study = p.study and c.attack = p.attack and c.epsilon is not distinct from p.epsilon
order by s.study, p.position;

create view table3 as select * from effectiveness;

-- Fig. 5: share of the test images by mean l1 change, 20 bins of equal width from 0 to the attack's largest.
create view magnitude as
with scaled as (
    select study, attack, epsilon, mean_l1, max(mean_l1) over (partition by study, attack, epsilon) as top from attack where split = 'test'
), binned as (
    select study, attack, epsilon, top, coalesce(least(floor(20 * mean_l1 / nullif(top, 0)), 19), 0)::int as bin, count(*) as images
    from scaled group by all
), bins as (
    select study, attack, epsilon, top, sum(images) as total, unnest(range(20))::int as bin from binned group by study, attack, epsilon, top
)
select b.study, s.dataset, b.attack, b.epsilon, b.bin, b.bin * b.top / 20 as low, (b.bin + 1) * b.top / 20 as high,
       coalesce(f.images, 0) as images, coalesce(f.images, 0) / b.total as share
from bins b
join studies s on s.study = b.study
left join binned f on f.study = b.study and f.attack = b.attack and f.epsilon is not distinct from b.epsilon and f.bin = b.bin
order by b.study, b.attack, b.epsilon nulls first, b.bin;


-- --- accuracies: Tables IV to VII, white box ------------------------------------------------------

-- Every accuracy of every study. Planned rows have no prediction: alone in their group they are a hole.
create view accuracies as
with counted as (
    select study, access, training, k, n, training_attack, training_epsilon, attack, epsilon, step_size,
           count(prediction) as images, count(*) filter (prediction = label) as hits, min(position) as position
    from (
        select study, access, training, k, n, training_attack, training_epsilon, attack, epsilon, step_size,
               label, prediction, null::int as position
        from evaluation
        union all by name
        from planned
    )
    group by all
)
select c.study, s.dataset, s.paper as paper_dataset, c.* exclude (study, hits, position), 100 * hits / nullif(images, 0) as accuracy,
       case when images > 0 then wilson_low(hits, images) end as low, case when images > 0 then wilson_high(hits, images) end as high,
       c.position
from counted c join studies s on s.study = c.study;

-- Clean images and attacks made on the base network, on every network.
create view black_box as
with paper as (
    select *, wilson_low(accuracy / 100 * paper_images(dataset), paper_images(dataset)) as low,
           wilson_high(accuracy / 100 * paper_images(dataset), paper_images(dataset)) as high
    from paper_black_box
)
select a.study, a.dataset, a.paper_dataset, a.training, a.k, a.n, a.training_attack, a.training_epsilon, a.attack, a.epsilon,
       a.images, a.accuracy, a.low, a.high, p.accuracy as paper,
       two_proportions_differ(a.accuracy, a.low, a.high, p.accuracy, p.low, p.high) as differs
from accuracies a
left join paper p
    on p.dataset = a.paper_dataset and p.training = a.training and p.attack = a.attack
    and p.k is not distinct from a.k and p.n is not distinct from a.n and same_epsilon(p.epsilon, a.epsilon)
where a.access in ('clean', 'black_box')
order by a.study, a.position;

-- Tables IV, V, VI: MNIST, CIFAR-10, Tiny ImageNet.
create view table4 as from black_box where training in ('base', 'vib') and paper_dataset = 'mnist';
create view table5 as from black_box where training in ('base', 'vib') and paper_dataset = 'cifar10';
create view table6 as from black_box where training in ('base', 'vib') and paper_dataset = 'tinyimagenet';

-- Table VII: adversarial training beside two choices among the defended networks:
--   vib        the one of highest clean accuracy, which V-E calls the strongest
--   vib_best   for each testing attack the one that does best on it. The row 'Proposed' of the paper is this
--              choice: its numbers are the largest of Table V in each block, from different k and n.
create view table7 as
with chosen as (
    from accuracies where access in ('clean', 'black_box') and training = 'adversarial'
    union all by name
    from accuracies where access in ('clean', 'black_box') and training = 'vib' and (study, k, n) in (
        select (study, k, n) from accuracies where access = 'clean' and training = 'vib'
        qualify row_number() over (partition by study order by accuracy desc nulls last, position) = 1
    )
    union all by name
    select * replace ('vib_best' as training) from accuracies where access in ('clean', 'black_box') and training = 'vib'
    qualify row_number() over (partition by study, attack, epsilon order by accuracy desc nulls last, position) = 1
), paper as (
    select * replace (if(training = 'vib', 'vib_best', training) as training),
           wilson_low(accuracy / 100 * paper_images(dataset), paper_images(dataset)) as low,
           wilson_high(accuracy / 100 * paper_images(dataset), paper_images(dataset)) as high
    from paper_table7
)
select c.study, c.dataset, c.paper_dataset, c.training, c.k, c.n, c.training_attack, c.training_epsilon, c.attack, c.epsilon,
       c.images, c.accuracy, c.low, c.high, p.accuracy as paper,
       two_proportions_differ(c.accuracy, c.low, c.high, p.accuracy, p.low, p.high) as differs
from chosen c
left join paper p
    on p.dataset = c.paper_dataset and p.training = c.training and p.attack = c.attack and same_epsilon(p.epsilon, c.epsilon)
    and p.training_attack is not distinct from c.training_attack and same_epsilon(p.training_epsilon, c.training_epsilon)
order by c.study, c.training, c.position;

-- PGD made against each network itself (V-E), a row for each step size = epsilon / divisor.
create view white_box as
select study, dataset, training, k, n, epsilon, step_size, round(epsilon / step_size, 3) as divisor,
       images, accuracy, low, high, unreadable(paper_dataset) as paper
from accuracies
where access = 'white_box'
order by study, position nulls last, n, k, epsilon, divisor;


-- --- what is left to do ---------------------------------------------------------------------------

-- Cells without results: not made yet, or, where there is a reason, failed when they were last tried.
create view missing as
select study, "table", title, reason, waits, path from cells where not done order by study, waits nulls last, "table", title, path;


-- --- speed ------------------------------------------------------------------------------------------

-- The newest run of every case of the benchmark: medians over the turns, scaled from the units that a turn did to the
-- whole case, and their spread in per cent. times_harness is made turn by turn, as the contenders take turns: 5 means that the harness needs a fifth.
create view speed as
with newest as (
    select part, "case", arg_max(cell, measured_at) as cell from benchmark group by part, "case"
), turns as (
    select benchmark.*, seconds * amount / measured as whole_s from benchmark join newest using (part, "case", cell)
), compared as (
    select turns.*, turns.whole_s / harness.whole_s as ratio
    from turns left join turns as harness on harness.cell = turns.cell and harness.turn = turns.turn and harness.contender = 'harness'
)
select part, "case", contender, any_value(device) as device, any_value(threads) as threads, any_value(unit) as unit,
    any_value(amount) as amount, any_value(measured) as measured, count(seconds)::integer as turns,
    median(whole_s) as seconds, 100 * (max(whole_s) - min(whole_s)) / median(whole_s) as spread, any_value(amount) / median(whole_s) as per_s,
    median(ratio) as times_harness, any_value(images) as images, any_value("values") as "values", any_value(classes) as classes,
    100 * avg(agreement) as agreement, 100 * avg(fooled) as fooled, avg(l2) as l2, 100 * avg(accuracy) as accuracy,
    avg(candidates) as candidates, median(overhead_s) as overhead_s, any_value(note) as note
from compared
group by part, "case", contender, cell
order by part, min(measured_at), "case", min(position);
