-- Statistics: intervals over seeds, credit over the best control, pairs of networks. docs/statistics.md has the
-- formulas and their sources.

-- How many seeds each study has.
create view seeds_of as select study, len(seeds)::bigint as of_seeds from studies;

-- All that is measured of each seed's network: accuracies, robust accuracy ('robust', 'worst case') and the share of
-- images for which the bound is refuted ('bound', 'refuted'; epsilon is k). A test is told by study, access, attack,
-- norm, epsilon and step_size.
create view scores as
with everything as (
    select study, access, attack, norm, epsilon, step_size, name, method, role, title, grid, seed, accuracy, position
    from accuracies
    union all by name
    select study, 'robust' as access, 'worst case' as attack, norm, epsilon, name, method, role, title, grid, seed,
           accuracy, position
    from robust
    union all by name
    select study, 'bound' as access, 'refuted' as attack, k as epsilon, name, method, role, title, grid, seed,
           refuted as accuracy, position
    from bound_test
)
from everything where accuracy is not null;

-- Whether an image is classified as it should be, of every test image and test that gives credit.
create view outcomes as
select study, access, attack, norm, epsilon, step_size, name, seed, image_id, prediction = label as is_right
from evaluation where split = 'test'
union all by name
select study, 'robust' as access, 'worst case' as attack, norm, epsilon, name, seed, image_id, is_right
from robust_images;

-- Standard deviation (s) of an accuracy between seeds and its degrees of freedom (df), in each test, pooled over the
-- networks that have all seeds: what is left of a table of networks and seeds when the means of both are taken away.
-- A network alone, which no mean of a seed can be taken from, has its own standard deviation.
--   scope    grid: the networks of one (k, n) grid (member); controls: these and the controls; all: every network
--            but the base network; base: the base network
create view pooled as
with complete as (
    select study, access, attack, norm, epsilon, step_size, name, role, grid, seed, accuracy
    from scores join seeds_of using (study)
    where of_seeds > 1
    qualify count(*) over (partition by study, access, attack, norm, epsilon, step_size, name) = of_seeds
), scoped as (
    select 'all' as scope, null::varchar as member, * from complete where role <> 'base'
    union all by name select 'grid' as scope, grid as member, * from complete where role <> 'base'
    union all by name
    select 'controls' as scope, g.member, c.*
    from complete c join (select distinct study, grid as member from complete where role <> 'base') g using (study)
    where c.role <> 'base' and (c.grid = g.member or c.role = 'control')
    union all by name select 'base' as scope, null::varchar as member, * from complete where role = 'base'
), left_over as (
    select *, accuracy - avg(accuracy) over network as of_network,
           accuracy - avg(accuracy) over network - avg(accuracy) over the_seed + avg(accuracy) over everything
               as residual
    from scoped
    window everything as (partition by study, access, attack, norm, epsilon, step_size, scope, member),
           network as (partition by study, access, attack, norm, epsilon, step_size, scope, member, name),
           the_seed as (partition by study, access, attack, norm, epsilon, step_size, scope, member, seed)
), counted as (
    select study, access, attack, norm, epsilon, step_size, scope, member,
           count(distinct name) as networks, count(distinct seed) as seeds,
           count(distinct name) filter (role = 'control') as controls,
           sum(pow(residual, 2)) as squares, sum(pow(of_network, 2)) as own_squares
    from left_over group by all
)
select * exclude (squares, own_squares),
       if(networks = 1, seeds - 1, (networks - 1) * (seeds - 1)) as df,
       sqrt(if(networks = 1, own_squares, squares) / if(networks = 1, seeds - 1, (networks - 1) * (seeds - 1))) as s
from counted;

-- s and df for the interval of a network's mean over seeds: pooled over its grid where that has several networks
-- with all seeds, else over itself and the controls, where there are none over all networks.
--   least_difference    that two means over all seeds can show at 95 %: t * s * sqrt(2 / seeds)
create view pooled_spread as
with lines as (
    select distinct study, access, attack, norm, epsilon, step_size, grid, role = 'base' as is_base
    from scores
)
select l.*, p.scope, p.networks, p.seeds, p.s, p.df, t_975(p.df) * p.s * sqrt(2 / p.seeds) as least_difference
from lines l
join pooled p
    on p.study = l.study and p.access = l.access and p.attack = l.attack and p.norm is not distinct from l.norm
    and p.epsilon is not distinct from l.epsilon and p.step_size is not distinct from l.step_size
    and case when l.is_base then p.scope = 'base'
             else p.scope = 'grid' and p.member = l.grid and p.networks > 1
                  or p.scope = 'controls' and p.member = l.grid and p.controls > 0 or p.scope = 'all' end
qualify row_number() over (
    partition by l.study, l.access, l.attack, l.norm, l.epsilon, l.step_size, l.grid, l.is_base
    order by list_position(['base', 'grid', 'controls', 'all'], p.scope)
) = 1;

-- Credit: accuracy minus that of the best control in the same seed and test. Controls are networks without the
-- defense; adversarial training that must pass (control_pgd) is one of the networks that get credit.
--   only_network, only_control    images that one of the two alone is right on
--   low, high                     paired 95 % interval over the test images, which knows of no other seed
create view credit as
with scored as (
    from scores where access <> 'bound'
), best as (
    select study, access, attack, norm, epsilon, step_size, seed, name as control, title as control_title,
           accuracy as control_accuracy
    from scored where role = 'control' and name <> 'control_pgd'
    qualify row_number() over (
        partition by study, access, attack, norm, epsilon, step_size, seed order by accuracy desc, position
    ) = 1
), compared as (
    select s.study, s.access, s.attack, s.norm, s.epsilon, s.step_size, s.name, s.method, s.role, s.title, s.grid,
           s.seed, s.accuracy, b.control, b.control_title, b.control_accuracy, s.position
    from scored s
    join best b
        on b.study = s.study and b.access = s.access and b.attack = s.attack and b.norm is not distinct from s.norm
        and b.epsilon is not distinct from s.epsilon and b.step_size is not distinct from s.step_size
        and b.seed = s.seed
    where s.role in ('defense', 'baseline', 'model') or s.name = 'control_pgd'
), paired as (
    select c.study, c.access, c.attack, c.norm, c.epsilon, c.step_size, c.name, c.seed, count(*) as images,
           count(*) filter (a.is_right and not b.is_right) as only_network,
           count(*) filter (b.is_right and not a.is_right) as only_control
    from compared c
    join outcomes a
        on a.study = c.study and a.access = c.access and a.attack = c.attack and a.norm is not distinct from c.norm
        and a.epsilon is not distinct from c.epsilon and a.step_size is not distinct from c.step_size
        and a.name = c.name and a.seed = c.seed
    join outcomes b
        on b.study = c.study and b.access = c.access and b.attack = c.attack and b.norm is not distinct from c.norm
        and b.epsilon is not distinct from c.epsilon and b.step_size is not distinct from c.step_size
        and b.name = c.control and b.seed = c.seed and b.image_id = a.image_id
    group by c.study, c.access, c.attack, c.norm, c.epsilon, c.step_size, c.name, c.seed
)
select c.* exclude (position), p.images, 100 * (p.only_network - p.only_control) / p.images as credit,
       p.only_network, p.only_control, paired_low(p.only_network, p.only_control, p.images) as low,
       paired_high(p.only_network, p.only_control, p.images) as high, c.position
from compared c
join paired p
    on p.study = c.study and p.access = c.access and p.attack = c.attack and p.norm is not distinct from c.norm
    and p.epsilon is not distinct from c.epsilon and p.step_size is not distinct from c.step_size
    and p.name = c.name and p.seed = c.seed
order by c.study, c.position, c.name, c.seed, c.access, c.attack, c.norm, c.epsilon, c.step_size;

-- 'better than the best control: yes | no | not shown', from the 95 % interval of the mean credit and the lowest and
-- the highest of the seeds. Yes needs several seeds, which must all agree; a single one can only refute.
create macro is_better(low, high, lowest, highest, of_seeds) as
    case when high < 0 and highest < 0 then 'no'
         when low > 0 and lowest > 0 and of_seeds > 1 then 'yes'
         else 'not shown' end;

-- What tables call a test.
create macro test_words(access, norm, epsilon, attack_title, divisor) as
    case access when 'robust' then 'robust at ' || epsilon_text(epsilon) || ' (' || norm || ')'
                when 'bound' then 'bound refuted, k=' || format('{:g}', epsilon)
                when 'white_box' then
                    attack_title || ', white box' || coalesce(', eps/' || format('{:g}', divisor), '')
                else attack_title end;

-- The mean credit over the seeds. Its interval is that of the difference of two means, from the standard deviation
-- between seeds pooled over the network's grid and the controls; of one seed, that over the test images.
create view credit_over_seeds as
with means as (
    select study, access, attack, norm, epsilon, step_size, name, any_value(method) as method,
           any_value(role) as role, any_value(title) as title, any_value(grid) as grid, count(*) as seeds, of_seeds,
           max(images) as images, avg(accuracy) as accuracy, avg(control_accuracy) as control_accuracy,
           array_to_string(list_sort(list(distinct control)), ', ') as control,
           array_to_string(list_sort(list(distinct control_title)), ', ') as control_title,
           avg(credit) as credit, min(credit) as lowest, max(credit) as highest,
           any_value(low) as image_low, any_value(high) as image_high, min(position) as position
    from credit join seeds_of using (study)
    group by study, access, attack, norm, epsilon, step_size, name, of_seeds
), bounded as (
    select m.* exclude (image_low, image_high, grid, position), p.s, p.df,
           if(of_seeds = 1, image_low, credit - t_975(p.df) * p.s * sqrt(2 / m.seeds)) as low,
           if(of_seeds = 1, image_high, credit + t_975(p.df) * p.s * sqrt(2 / m.seeds)) as high,
           m.position
    from means m
    left join pooled p
        on p.scope = 'controls' and p.member = m.grid and p.study = m.study and p.access = m.access and p.attack = m.attack and p.norm is not distinct from m.norm
        and p.epsilon is not distinct from m.epsilon and p.step_size is not distinct from m.step_size
), titles as (
    select study, access, attack, epsilon, step_size, any_value(attack_title) as attack_title,
           any_value(divisor) as divisor, min(position) as test_position
    from accuracies group by study, access, attack, epsilon, step_size
)
select b.* exclude (position), is_better(low, high, lowest, highest, seeds) as better,
       if(of_seeds = 1, 'one seed: test images only', seeds || ' of ' || of_seeds || ' seeds') as rests_on,
       test_words(b.access, b.norm, b.epsilon, t.attack_title, t.divisor) as test,
       v.verdict, v.reason, b.position
from bounded b
join verdicts v on v.study = b.study and v.name = b.name
left join titles t
    on t.study = b.study and t.access = b.access and t.attack = b.attack
    and t.epsilon is not distinct from b.epsilon and t.step_size is not distinct from b.step_size
order by b.study, v.position, b.access <> 'robust', b.norm, b.epsilon, t.test_position;

-- Robust accuracy, the mean over the seeds that are measured: low and high are a t interval, of one seed Wilson's.
create view robust_over_seeds as
select r.study, any_value(r.dataset) as dataset, r.norm, r.epsilon, r.name, any_value(r.method) as method, any_value(r.role) as role,
       any_value(r.title) as title, any_value(r.grid) as grid, count(r.accuracy) as seeds, of_seeds,
       max(r.images) as images, avg(r.accuracy) as accuracy, stddev_samp(r.accuracy) as spread,
       mean_low(avg(r.accuracy), any_value(p.s), any_value(p.df), count(r.accuracy), of_seeds, any_value(r.low)) as low,
       mean_high(avg(r.accuracy), any_value(p.s), any_value(p.df), count(r.accuracy), of_seeds, any_value(r.high))
           as high,
       any_value(p.least_difference) as least_difference, avg(r.clean_accuracy) as clean_accuracy,
       list_sort(list_distinct(flatten(list(r.attacks)))) as attacks,
       list_sort(list_distinct(flatten(list(r.missing)))) as missing,
       bool_and(coalesce(r.is_complete, false)) as is_complete, min(r.position) as position
from robust r
join seeds_of using (study)
left join pooled_spread p
    on p.access = 'robust' and p.study = r.study and p.norm = r.norm and p.epsilon = r.epsilon and p.grid = r.grid
    and p.is_base = (r.role = 'base')
group by r.study, r.norm, r.epsilon, r.name, of_seeds
order by r.study, r.norm, r.epsilon, position;

-- The share of images for which the bound is refuted, the mean over the seeds.
create view bound_test_over_seeds as
select r.study, any_value(r.dataset) as dataset, any_value(r.neighbours) as neighbours, r.name,
       any_value(r.method) as method, any_value(r.role) as role, any_value(r.title) as title, r.k,
       count(r.refuted) as seeds, of_seeds, max(r.images) as images, avg(r.refuted) as refuted,
       mean_low(avg(r.refuted), any_value(p.s), any_value(p.df), count(r.refuted), of_seeds, any_value(r.low)) as low,
       mean_high(avg(r.refuted), any_value(p.s), any_value(p.df), count(r.refuted), of_seeds, any_value(r.high))
           as high,
       avg(r.fooled) as fooled, avg(r.median_ratio) as median_ratio,
       list_sort(list_distinct(flatten(list(r.attacks)))) as attacks, any_value(v.verdict) as verdict,
       any_value(v.reason) as reason, min(r.position) as position
from bound_test r
join seeds_of using (study)
join verdicts v on v.study = r.study and v.name = r.name
left join pooled_spread p
    on p.access = 'bound' and p.study = r.study and p.epsilon = r.k and p.grid = r.grid and p.is_base = (r.role = 'base')
group by r.study, r.name, r.k, of_seeds
order by r.study, position, r.k;

-- Two networks on the same test images, in each seed and threat model: exact McNemar test of robust accuracy, its p
-- adjusted by Holm over all pairs of the seed and threat model. The verdict is one on these two trainings.
create view pairs as
with networks_right as materialized (
    select r.study, r.norm, r.epsilon, r.seed, n.position, r.name, n.title, r.image_id, r.is_right
    from robust_images r join networks n on n.study = r.study and n.name = r.name and n.seed = r.seed
), counted as (
    select a.study, a.norm, a.epsilon, a.seed, a.name as a, b.name as b, any_value(a.title) as title_a,
           any_value(b.title) as title_b, count(*) as images,
           count(*) filter (a.is_right and not b.is_right) as only_a,
           count(*) filter (b.is_right and not a.is_right) as only_b,
           any_value(a.position) as position, any_value(b.position) as position_b
    from networks_right a
    join networks_right b
        on b.study = a.study and b.norm = a.norm and b.epsilon = a.epsilon and b.seed = a.seed
        and b.image_id = a.image_id and b.position > a.position
    group by a.study, a.norm, a.epsilon, a.seed, a.name, b.name
), tested as (
    select *, mcnemar(only_a, only_b) as p from counted
), ranked as (
    select *, count(*) over everything as of_pairs, row_number() over (everything order by p, position, position_b) as i
    from tested window everything as (partition by study, norm, epsilon, seed)
), adjusted as (
    select *, least(1, max((of_pairs - i + 1) * p) over (
        partition by study, norm, epsilon, seed order by i
    )) as p_holm from ranked
)
select study, norm, epsilon, epsilon_text(epsilon) as radius, seed, a, b, title_a, title_b, images, only_a, only_b,
       100 * (only_a - only_b) / images as difference, paired_low(only_a, only_b, images) as low,
       paired_high(only_a, only_b, images) as high, p, p_holm,
       case when p_holm >= 0.05 then 'tied'
            when only_a > only_b then title_a || ' is better' else title_b || ' is better' end as verdict,
       position, position_b
from adjusted
order by study, norm, epsilon, seed, position, position_b;
