-- The report's tables as SQL views: read them, copy them, change them.
--
-- They stand on the Parquet files that the studies name (see harness/results/records.py for every column):
--   bound, attack, evaluation, training    one row an image or an epoch, with the study in front
--   benchmark    one row a contender and turn of `harness benchmark`; belongs to no study
--   studies      one row a study: data set, the paper's data set beside it, seeds, settings of the score
--   cells        every planned piece of work with its step and title, and whether its file is there; where it
--                failed, the reason, whether it waits for another that failed, and the traceback (detail); no
--                study: the benchmark's
--   planned      every accuracy that a study is to measure, in the study's order (position), and what tables
--                call the network (title) and the attack (attack_title), the network's role (base, defense,
--                baseline, control, model), and whether it is a stage of a worst case that goes on
--   networks     every network that a study tests, once for each seed, with its role
--   rekeyed      cells that kept their values through an edit of code from outside: what was edited, how many
--                cells, and how many of them were made again and found equal
--   paper_table2, paper_black_box, paper_table7    the numbers printed in the paper
--
-- A network is told by its name and seed; networks of any method are rows. Views of accuracies and attacks
-- have a row for each seed, over_seeds and effectiveness_over_seeds the means. Accuracies and shares are in
-- per cent, distances and epsilon in [0, 1] units. A planned accuracy that isn't measured yet is a row with
-- 0 images and a null accuracy.


-- --- arithmetic -----------------------------------------------------------------------------------

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


-- --- the bound: Table II, Fig. 4 ------------------------------------------------------------------

-- Table II: sigma over the training images, for both readings of "nearest neighbour".
create view table2 as
with distances as (
    select study, neighbours, min(distance) as low, avg(distance) as mean, max(distance) as high
    from bound where split = 'train' group by study, neighbours
)
select s.study, s.dataset, kind.neighbours, kind.k,
       sigma(d.low, kind.k) as sigma_min, sigma(d.mean, kind.k) as sigma_mean,
       sigma(d.high, kind.k) as sigma_max,
       p.sigma_min as paper_min, p.sigma_mean as paper_mean, p.sigma_max as paper_max
from studies s
cross join (
    from (values ('other_class'), ('any_class')) a(neighbours),
         (values (1.0::double), (2.0), (2.5), (3.0)) b(k)
) kind
left join distances d on d.study = s.study and d.neighbours = kind.neighbours
left join paper_table2 p on p.dataset = s.paper and p.k = kind.k
order by s.study, kind.neighbours desc, kind.k;

-- Fig. 4: share of the training images by distance, 20 bins of equal width from 0 to the largest.
create view class_distance as
with scaled as (
    select study, neighbours, distance, max(distance) over (partition by study, neighbours) as top
    from bound where split = 'train'
), binned as (
    select study, neighbours, top, bin_of_20(distance, top) as bin, count(*) as images
    from scaled group by all
), bins as (
    select study, neighbours, top, sum(images) as total, unnest(range(20))::int as bin
    from binned group by study, neighbours, top
)
select b.study, s.dataset, b.neighbours, b.bin, b.bin * b.top / 20 as low, (b.bin + 1) * b.top / 20 as high,
       coalesce(f.images, 0) as images, coalesce(f.images, 0) / b.total as share
from bins b
join studies s on s.study = b.study
left join binned f on f.study = b.study and f.neighbours = b.neighbours and f.bin = b.bin
order by b.study, b.neighbours desc, b.bin;


-- --- the attacks: Table III, Fig. 5 ---------------------------------------------------------------

-- Table III: which attacks stay within the bound, on the test images (III-B), for the network of each seed.
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
    select a.study, a.name, a.method, a.seed, a.attack, a.epsilon, a.mean_l1, m.mean_sigma, o.own_sigma,
           a.adversarial_predicted <> a.predicted as fooled
    from attack a
    left join mean_bound m on m.study = a.study
    left join own_bound o on o.study = a.study and o.image_id = a.image_id
    where a.split = 'test'
), score as (  -- a comparison with a bound that is not there is null, and avg() leaves it out
    select study, name, method, seed, attack, epsilon, count(*) as images, 100 * avg(fooled::int) as fooled,
           avg(mean_l1) as mean_l1, min(mean_sigma) as mean_sigma,
           100 * avg((mean_l1 <= mean_sigma)::int) as within_mean_sigma,
           100 * avg((mean_l1 <= own_sigma)::int) as within_own_sigma,
           100 * avg((mean_l1 <= mean_sigma)::int * fooled::int) as effective_mean,
           100 * avg((mean_l1 <= own_sigma)::int * fooled::int) as effective_own
    from outcome group by study, name, method, seed, attack, epsilon
), planned_attacks as (  -- the black box's attacks are made on the base network of the seed
    select study, 'base' as name, 'base' as method, seed, attack, epsilon,
           any_value(attack_title) as attack_title, min(position) as position
    from planned where access = 'black_box' and split = 'test' group by study, seed, attack, epsilon
)
select s.study, s.dataset, p.name, p.method, p.seed, p.attack, p.epsilon, p.attack_title,
       coalesce(c.images, 0) as images, c.fooled, c.mean_l1, c.mean_sigma,
       c.within_mean_sigma, c.within_own_sigma, c.effective_mean, c.effective_own,
       unreadable(s.paper) as paper, p.position
from planned_attacks p
join studies s on s.study = p.study
left join score c
    on c.study = p.study and c.name = p.name and c.seed = p.seed
    and c.attack = p.attack and c.epsilon is not distinct from p.epsilon
order by s.study, p.position;

create view table3 as from effectiveness;

-- The same, the mean over the seeds that are measured.
create view effectiveness_over_seeds as
select study, any_value(dataset) as dataset, name, any_value(method) as method, attack, epsilon,
       any_value(attack_title) as attack_title, count(fooled) as seeds, max(images) as images,
       avg(fooled) as fooled, avg(mean_l1) as mean_l1, min(mean_sigma) as mean_sigma,
       avg(within_mean_sigma) as within_mean_sigma, avg(within_own_sigma) as within_own_sigma,
       avg(effective_mean) as effective_mean, avg(effective_own) as effective_own,
       any_value(paper) as paper, min(position) as position
from effectiveness group by study, name, attack, epsilon
order by study, position;

-- Fig. 5: share of the test images by mean l1 change, for the network of each seed: 20 bins of equal width
-- from 0 to the attack's largest.
create view magnitude as
with scaled as (
    select study, name, method, seed, attack, epsilon, mean_l1,
           max(mean_l1) over (partition by study, name, seed, attack, epsilon) as top
    from attack where split = 'test'
), binned as (
    select study, name, method, seed, attack, epsilon, top, bin_of_20(mean_l1, top) as bin, count(*) as images
    from scaled group by all
), bins as (
    select study, name, method, seed, attack, epsilon, top, sum(images) as total,
           unnest(range(20))::int as bin
    from binned group by study, name, method, seed, attack, epsilon, top
)
select b.study, s.dataset, b.name, b.method, b.seed, b.attack, b.epsilon,
       b.bin, b.bin * b.top / 20 as low, (b.bin + 1) * b.top / 20 as high,
       coalesce(f.images, 0) as images, coalesce(f.images, 0) / b.total as share
from bins b
join studies s on s.study = b.study
left join binned f
    on f.study = b.study and f.name = b.name and f.seed = b.seed
    and f.attack = b.attack and f.epsilon is not distinct from b.epsilon and f.bin = b.bin
order by b.study, b.name, b.seed, b.attack, b.epsilon nulls first, b.bin;


-- --- accuracies: Tables IV to VII, white box ------------------------------------------------------

-- Every accuracy of every study and seed. Planned rows have no prediction: alone in their group they are a
-- hole. divisor: an iterative attack's epsilon over its step size. grid: the title without k and n.
create view accuracies as
with predictions as (
    select study, access, name, method, settings, k, n, training_attack, training_epsilon, seed,
           attack, attack_method, norm, epsilon, step_size, label, prediction
    from evaluation where split = 'test'
    union all by name
    from planned where split = 'test'
), counted as (
    select study, access, name, any_value(method) as method, any_value(settings) as settings,
           any_value(k) as k, any_value(n) as n,
           any_value(training_attack) as training_attack, any_value(training_epsilon) as training_epsilon,
           seed, attack, any_value(attack_method) as attack_method, any_value(norm) as norm, epsilon, step_size,
           any_value(role) as role, any_value(stage) as stage, coalesce(any_value(title), name) as title,
           coalesce(any_value(attack_title), attack) as attack_title,
           count(prediction) as images, count(*) filter (prediction = label) as hits,
           min(position) as position
    from predictions
    group by study, access, name, seed, attack, epsilon, step_size
)
select c.study, s.dataset, s.paper as paper_dataset, c.* exclude (study, images, hits, position),
       without_k_and_n(c.title) as grid, round(epsilon / step_size, 3) as divisor,
       images, 100 * hits / nullif(images, 0) as accuracy,
       case when images > 0 then wilson_low(hits, images) end as low,
       case when images > 0 then wilson_high(hits, images) end as high,
       c.position
from counted c join studies s on s.study = c.study;

-- The same in the study's order.
create view seeds as from accuracies order by study, position nulls last, name, seed;

-- Clean images and attacks made on the base network, on every network.
create view black_box as
select a.study, a.dataset, a.paper_dataset, a.name, a.method, a.settings, a.k, a.n, a.training_attack,
       a.training_epsilon, a.seed, a.attack, a.attack_method, a.norm, a.epsilon, a.title, a.grid, a.attack_title,
       a.images, a.accuracy, a.low, a.high, p.accuracy as paper,
       differs_from_paper(a.accuracy, a.low, a.high, p.accuracy, p.dataset) as differs, a.position
from accuracies a
left join paper_black_box p
    on p.dataset = a.paper_dataset and p.method = a.method and p.attack = a.attack
    and p.k is not distinct from a.k and p.n is not distinct from a.n and same_epsilon(p.epsilon, a.epsilon)
where a.access in ('clean', 'black_box')
order by a.study, a.position;

-- Tables IV, V, VI: MNIST, CIFAR-10, Tiny ImageNet.
create view table4 as
from black_box where method in ('base', 'imperceptible_bound') and paper_dataset = 'mnist';
create view table5 as
from black_box where method in ('base', 'imperceptible_bound') and paper_dataset = 'cifar10';
create view table6 as
from black_box where method in ('base', 'imperceptible_bound') and paper_dataset = 'tinyimagenet';

-- Table VII: adversarial training, and any other network, beside two choices in each (k, n) grid of the
-- bound's defense, made for each seed by itself:
--   imperceptible_bound        the network of highest clean accuracy, which V-E calls the strongest
--   imperceptible_bound_best   for each testing attack the one that does best on it. The row 'Proposed' of
--       the paper is this choice: its numbers are the largest of Table V in each block, from different k and n.
-- line: what the rows of all seeds have in common.
create view table7 as
with tested as (
    select *, name as line from accuracies where access in ('clean', 'black_box')
), strongest as (
    select study, seed, name from tested where access = 'clean' and method = 'imperceptible_bound'
    qualify row_number() over (partition by study, seed, grid order by accuracy desc nulls last, position) = 1
), chosen as (
    from tested where method not in ('base', 'imperceptible_bound')
    union all by name
    select * replace (grid || ', strongest of each seed' as line)
    from tested where (study, seed, name) in (from strongest)
    union all by name
    select * replace ('imperceptible_bound_best' as method, grid || ', best for each attack' as line,
                      grid || ', best for each attack' as title)
    from tested where method = 'imperceptible_bound'
    qualify row_number() over (
        partition by study, seed, grid, attack, epsilon order by accuracy desc nulls last, position
    ) = 1
)
select c.study, c.dataset, c.paper_dataset, c.name, c.method, c.settings, c.k, c.n, c.training_attack,
       c.training_epsilon, c.seed, c.attack, c.attack_method, c.norm, c.epsilon, c.title, c.line, c.attack_title,
       c.images, c.accuracy, c.low, c.high, p.accuracy as paper,
       differs_from_paper(c.accuracy, c.low, c.high, p.accuracy, p.dataset) as differs, c.position
from chosen c
left join paper_table7 p
    on p.dataset = c.paper_dataset
    and if(p.method = 'imperceptible_bound', 'imperceptible_bound_best', p.method) = c.method
    and p.attack = c.attack and same_epsilon(p.epsilon, c.epsilon)
    and p.training_attack is not distinct from c.training_attack
    and same_epsilon(p.training_epsilon, c.training_epsilon)
order by c.study, c.method = 'imperceptible_bound_best', c.method = 'imperceptible_bound', c.position;

-- Attacks made against each network itself (V-E), a row for each step size = epsilon / divisor; divisor is null
-- for attacks without steps.
create view white_box as
select study, dataset, name, method, settings, k, n, training_attack, training_epsilon, seed,
       attack, attack_method, norm, epsilon, step_size, divisor, title, name as line, attack_title,
       images, accuracy, low, high, unreadable(paper_dataset) as paper, position
from accuracies where access = 'white_box'
order by study, position nulls last, name, seed, epsilon, divisor;

-- Seconds of attacking an image, of every attack on the network that it was made on: for the black box the base
-- network's, in the white box each.
create view timing as
select study, access, name, any_value(method) as method, seed, attack,
       any_value(attack_method) as attack_method, epsilon, step_size, count(*) as images,
       avg(attack_s) as attack_s
from (
    select *, 'black_box' as access from attack where split = 'test'
    union all by name
    from evaluation where access = 'white_box' and split = 'test'
)
group by study, access, name, seed, attack, epsilon, step_size
order by study, access, name, seed, attack, epsilon nulls first, step_size;

-- The lines of the printed tables: layout is black_box (Tables IV to VI), table7 or white_box.
--   accuracy    mean over the seeds that are measured (seeds, of the study's of_seeds)
--   spread      standard deviation between them (n - 1), beside their lowest and highest
--   low, high   Wilson's interval over the test images, where the study has one seed: it knows of no other
--   differs     every seed differs from the paper's number, all in the same direction
-- What tells networks apart is null where the seeds' networks differ in it.
create view over_seeds as
with lines as (
    select 'black_box' as layout, name as line, * from black_box
    union all by name
    select 'table7' as layout, * from table7
    union all by name
    select 'white_box' as layout, * exclude (paper) from white_box
)
select study, layout, line, any_value(dataset) as dataset, any_value(paper_dataset) as paper_dataset,
       coalesce(common(title), line) as title, any_value(grid) as grid, common(name) as name,
       any_value(method) as method, common(settings) as settings, common(k) as k, common(n) as n,
       common(training_attack) as training_attack, common(training_epsilon) as training_epsilon,
       attack, any_value(attack_title) as attack_title, any_value(attack_method) as attack_method,
       any_value(norm) as norm, epsilon, step_size, any_value(divisor) as divisor,
       count(accuracy) as seeds, of_seeds, max(images) as images,
       avg(accuracy) as accuracy, stddev_samp(accuracy) as spread,
       min(accuracy) as lowest, max(accuracy) as highest,
       case when of_seeds = 1 then any_value(low) end as low,
       case when of_seeds = 1 then any_value(high) end as high,
       any_value(paper) as paper,
       bool_and(differs) and (bool_and(accuracy > paper) or bool_and(accuracy < paper)) as differs,
       min(position) as position
from lines join (select study, len(seeds) as of_seeds from studies) using (study)
group by study, layout, line, attack, epsilon, step_size, of_seeds
order by study, layout, position nulls last;


-- --- what is left to do ---------------------------------------------------------------------------

-- Cells without results: not made yet, or, where there is a reason, failed when they were last tried.
create view missing as
select study, "table", step, title, reason, waits, path
from cells where not done order by study, waits nulls last, "table", title, path;

create view failed as from missing where reason is not null;


-- --- speed ------------------------------------------------------------------------------------------

-- The newest run of every case of the benchmark: medians over the turns, scaled from the units that a turn
-- did to the whole case, and their spread in per cent. times_harness is made turn by turn, as the contenders
-- take turns: 5 means that the harness needs a fifth.
create view speed as
with newest as (
    select part, "case", arg_max(cell, measured_at) as cell from benchmark group by part, "case"
), turns as (
    select benchmark.*, seconds * amount / measured as whole_s
    from benchmark join newest using (part, "case", cell)
), compared as (
    select turns.*, turns.whole_s / harness.whole_s as ratio
    from turns
    left join turns as harness
        on harness.cell = turns.cell and harness.turn = turns.turn and harness.contender = 'harness'
)
select part, "case", contender,
    any_value(device) as device, any_value(threads) as threads, any_value(unit) as unit,
    any_value(amount) as amount, any_value(measured) as measured, count(seconds)::integer as turns,
    median(whole_s) as seconds, 100 * (max(whole_s) - min(whole_s)) / median(whole_s) as spread,
    any_value(amount) / median(whole_s) as per_s, median(ratio) as times_harness,
    any_value(images) as images, any_value("values") as "values", any_value(classes) as classes,
    100 * avg(agreement) as agreement, 100 * avg(fooled) as fooled, avg(l2) as l2,
    100 * avg(accuracy) as accuracy, avg(candidates) as candidates, median(overhead_s) as overhead_s,
    any_value(note) as note
from compared
group by part, "case", contender, cell
order by part, min(measured_at), "case", min(position);
