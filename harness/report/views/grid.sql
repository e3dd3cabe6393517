-- The (k, n) grid, every attack on every network, and the paper's numbers beside ours.

-- The networks of each (k, n) grid in every test in the black box and within the printed radii, beside the base network
-- and the best control there.
create view grid as
with settings as (
    select distinct study, name, k, n, grid from accuracies
    where role = 'defense' and method = 'imperceptible_bound' and k is not null and n is not null
), tests as (
    select study, 1 as part, attack_title as test, name, role, accuracy, low, high, images, seeds, control_accuracy,
           control_title, position
    from over_seeds where layout = 'black_box' and role in ('base', 'defense')
    union all by name
    select r.study, 0 as part, 'robust at ' || epsilon_text(r.epsilon) || ' (' || r.norm || ')' as test, r.name, r.role,
           r.accuracy, r.low, r.high, r.images, r.seeds, c.control_accuracy, c.control_title, r.position
    from robust_over_seeds r semi join printed_threat_models using (study, norm, epsilon)
    left join credit_over_seeds c
        on c.access = 'robust' and c.study = r.study and c.norm = r.norm and c.epsilon = r.epsilon and c.name = r.name
)
select t.study, s.grid, t.test, t.name, s.k, s.n, t.accuracy, t.low, t.high, t.images, t.seeds,
       b.accuracy as base_accuracy, t.control_accuracy, t.control_title, t.part, t.position
from tests t
join settings s on s.study = t.study and s.name = t.name
left join tests b on b.role = 'base' and b.study = t.study and b.test = t.test
where t.role = 'defense' and t.accuracy is not null
order by t.study, s.grid, t.part, t.position, s.n, s.k;

-- Every attack on every network, of its step sizes the one that harms most: the mean over the seeds with its interval,
-- of one seed Wilson's.
create view under_attack as
with worst as (
    select study, access, name, any_value(title) as title, any_value(role) as role, seed, attack, epsilon,
           any_value(attack_title) as attack_title, min(accuracy) as accuracy, arg_min(low, accuracy) as low,
           arg_min(high, accuracy) as high, arg_min(images, accuracy) as images, min(position) as position
    from accuracies where access in ('black_box', 'white_box') and stage is not true
    group by study, access, name, seed, attack, epsilon
)
select study, access, name, any_value(title) as title, any_value(role) as role, attack, epsilon,
       any_value(attack_title) || if(access = 'black_box', ' (black box)', '') as attack_title,
       count(accuracy) as seeds, of_seeds, max(images) as images, avg(accuracy) as accuracy,
       seeds_low(accuracy, of_seeds, low) as low, seeds_high(accuracy, of_seeds, high) as high,
       min(position) as position
from worst join seeds_of using (study)
group by study, access, name, attack, epsilon, of_seeds
order by study, min(position);

-- Every number that the paper prints and this study measures, and what of it can't be read.
--   verdict    reproduced, or differs: at 95 %, with the paper's own sampling error, in every seed and to the same side
--              (a sigma: by .001 or more, from at least 90 % of the paper's training images)
create view beside_paper as
with sigmas as (
    select study, neighbours, k, count(*) as images from bound cross join (select distinct k from table2)
    where split = 'train' group by study, neighbours, k
), everything as (
    select t.study, 'Table II' as source, 'sigma, nearest of ' || replace(t.neighbours, '_', ' ') as what,
           format('{} at k = {:g}', part, t.k) as item, t.paper, t.ours, null::double as low, null::double as high,
           i.images, null::bigint as seeds,
           case when coalesce(i.images, 0) >= 0.9 * paper_training_images(s.paper)
                then if(abs(t.ours - t.paper) < .001, 'reproduced', 'differs') end as verdict, 1 as place, t.k as position
    from (
        select study, neighbours, k, unnest(['smallest', 'mean', 'largest']) as part,
               unnest([paper_min, paper_mean, paper_max]) as paper, unnest([sigma_min, sigma_mean, sigma_max]) as ours
        from table2
    ) t
    join studies s on s.study = t.study
    left join sigmas i on i.study = t.study and i.neighbours = t.neighbours and i.k = t.k
    where t.paper is not null
    union all by name
    select study, case when layout = 'table7' then 'Table VII' when paper_dataset = 'mnist' then 'Table IV'
                       when paper_dataset = 'cifar10' then 'Table V' else 'Table VI' end as source,
           title as what, attack_title as item, paper, accuracy as ours, low, high, images, seeds,
           case when differs then 'differs' when differs is not null then 'reproduced' end as verdict,
           if(layout = 'table7', 4, 3) as place, position
    from over_seeds where paper is not null
    union all by name
    select study, 'Table III' as source, 'within the mean sigma' as what, attack_title as item, paper, ours, low, high,
           images, seeds,
           case when verdict = 'not measured here' then null when paper is null then 'unreadable'
                when differs_from_paper(ours, low, high, paper, 'mnist') then 'differs' else 'reproduced' end as verdict,
           2 as place, place as position
    from scorecard_within
    union all by name
    select u.study, 'V-E' as source, u.title as what, u.attack_title || ', white box' as item, u.accuracy as ours, u.low,
           u.high, u.images, u.seeds, 'unreadable' as verdict, 5 as place, u.position
    from under_attack u join studies s on s.study = u.study
    where u.access = 'white_box' and u.attack = 'pgd' and u.role in ('base', 'defense') and s.paper in ('mnist', 'cifar10')
)
select study, source, what, item, paper, ours, low, high, images, seeds,
       coalesce(if(ours is null, null, verdict), 'not measured here') as verdict, place, position
from everything order by study, place, position, what, item;
