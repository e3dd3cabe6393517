-- Accuracies: Tables IV to VII, white box.

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
