-- Choices among the networks of a (k, n) grid; Table VII.

-- Accuracies on validation images, which were held out of the training images, of the networks that are chosen among.
create view validation as
with predictions as (
    select study, access, name, seed, attack, epsilon, label, prediction from evaluation where split = 'validation'
    union all by name
    select study, position, access, role, name, title, k, n, seed, attack, attack_title, epsilon
    from planned where split = 'validation'
)
select study, access, name, any_value(role) as role, coalesce(any_value(title), name) as title,
       without_k_and_n(coalesce(any_value(title), name)) as grid, any_value(k) as k, any_value(n) as n, seed,
       attack, any_value(attack_title) as attack_title, epsilon, count(prediction) as images,
       100 * count(*) filter (prediction = label) / nullif(count(prediction), 0) as accuracy,
       min(position) as position
from predictions
group by study, access, name, seed, attack, epsilon
order by study, min(position);

-- Which network of a grid is chosen, and by which accuracy. Its name in table7, method, is one of:
--   imperceptible_bound_validated   on validation images: of highest mean accuracy over clean and attacked images, the
--       mean over the seeds; one network for all seeds (seed is null), once every network of the grid is measured
--   imperceptible_bound             on test images, in each seed: of highest clean accuracy, which V-E calls the
--       strongest
--   imperceptible_bound_best        on test images, in each seed and for each attack: the one that does best on it.
--       The row 'Proposed' of the paper is this choice: its numbers are the largest of Table V in each block, from
--       different k and n.
-- A choice made on test images is too good by as much as chance differs between the networks.
create view choice as
with of_seeds as (
    select study, grid, name, any_value(title) as title, any_value(k) as k, any_value(n) as n, seed,
           max(images) as images, avg(accuracy) as accuracy, bool_and(images > 0) as is_measured,
           min(position) as position
    from validation where role = 'defense' group by study, grid, name, seed
), of_networks as (
    select study, grid, name, any_value(title) as title, any_value(k) as k, any_value(n) as n,
           count(*) as seeds, max(images) as images, avg(accuracy) as accuracy, bool_and(is_measured) as is_measured,
           min(position) as position
    from of_seeds group by study, grid, name
), of_grids as (
    select * exclude (is_measured) from of_networks
    qualify bool_and(is_measured) over (partition by study, grid)
), tested as (
    select study, grid, access, name, title, k, n, seed, attack, attack_title, epsilon, 1 as seeds, images, accuracy,
           position
    from black_box where role = 'defense' and method = 'imperceptible_bound'
), chosen as (
    select 'imperceptible_bound_validated' as method, 'validation' as split,
           ', chosen on validation images' as words, * from of_grids
    qualify row_number() over (partition by study, grid order by accuracy desc, position) = 1
    union all by name
    select 'imperceptible_bound' as method, 'test' as split, ', strongest on test images' as words,
           * exclude (access, attack, attack_title, epsilon)
    from tested where access = 'clean'
    qualify row_number() over (partition by study, seed, grid order by accuracy desc nulls last, position) = 1
    union all by name
    select 'imperceptible_bound_best' as method, 'test' as split, ', best for each attack on test images' as words,
           * exclude (access)
    from tested
    qualify row_number() over (
        partition by study, seed, grid, attack, epsilon order by accuracy desc nulls last, position
    ) = 1
)
select study, grid, method, split, words, name, title, k, n, seed, attack, attack_title, epsilon, seeds, images,
       accuracy, position
from chosen
order by study, grid, split <> 'validation', method = 'imperceptible_bound_best', position;

-- Table VII: adversarial training, and any other network, beside the choices in each (k, n) grid of the bound's
-- defense (method tells which, see choice). line: what the rows of all seeds have in common.
create view table7 as
with tested as (
    select *, name as line from accuracies where access in ('clean', 'black_box')
), chosen as (
    select t.* from tested t where role = 'control' or method not in ('base', 'imperceptible_bound')
    union all by name
    select t.* replace (c.method as method, t.grid || c.words as line,
                        if(c.attack is null, t.title, t.grid) || c.words as title)
    from tested t
    join choice c
        on c.study = t.study and c.name = t.name and coalesce(c.seed, t.seed) = t.seed
        and (c.attack is null or c.attack = t.attack and c.epsilon is not distinct from t.epsilon)
)
select c.study, c.dataset, c.paper_dataset, c.name, c.method, c.settings, c.k, c.n, c.training_attack,
       c.training_epsilon, c.seed, c.attack, c.attack_method, c.norm, c.epsilon, c.title, c.grid, c.line,
       c.attack_title,
       c.role, c.access, c.images, c.accuracy, c.low, c.high, c.clean_accuracy, p.accuracy as paper,
       differs_from_paper(c.accuracy, c.low, c.high, p.accuracy, p.dataset) as differs, c.position
from chosen c
left join paper_table7 p
    on p.dataset = c.paper_dataset
    and if(p.method = 'imperceptible_bound', 'imperceptible_bound_best', p.method) = c.method
    and p.attack = c.attack and same_epsilon(p.epsilon, c.epsilon)
    and p.training_attack is not distinct from c.training_attack
    and same_epsilon(p.training_epsilon, c.training_epsilon)
order by c.study, list_position(
    ['imperceptible_bound_validated', 'imperceptible_bound', 'imperceptible_bound_best'], c.method
) nulls first, c.position;
