-- The ranking.

-- All networks by robust accuracy, the mean over the seeds, within a threat model.
--   certified           share of the test images that the smoothed network certifies as their class within the l2
--                       radius certified_radius, the noise's standard deviation; null where none was certified
--   is_ranked           no check fails, in all seeds all attacks are there, one of them made on the network itself
--   rank                among those: the same for networks of the same accuracy
--   first               'tied' where the difference to the first is smaller than one that the seeds (t interval of
--                       the difference of two means, by the larger s of the two networks'), or a seed's images
--                       (paired interval) can show; else 'below'
create view ranking as
with certified_shares as (
    select study, name, seed, min(noise_sd) as radius,
           100 * avg((prediction = label and radius >= noise_sd)::int) as share
    from certified where noise_sd = (select min(noise_sd) from certified c where c.study = certified.study)
    group by study, name, seed
), certified_means as (
    select study, name, min(radius) as certified_radius, avg(share) as certified
    from certified_shares group by study, name
), joined as (
    select r.study, r.dataset, r.norm, r.epsilon, epsilon_text(r.epsilon) as radius, r.name, r.method, r.role, r.title, r.seeds, r.of_seeds, r.images,
           r.clean_accuracy, r.accuracy, r.low, r.high, r.least_difference, r.attacks, r.missing, r.is_complete,
           c.control_title as control, c.control_accuracy, c.credit, c.low as credit_low, c.high as credit_high,
           c.better, m.certified, m.certified_radius, v.verdict, v.reason,
           v.verdict <> 'fail' and r.is_complete as is_ranked, r.position
    from robust_over_seeds r
    join verdicts v on v.study = r.study and v.name = r.name
    left join credit_over_seeds c
        on c.access = 'robust' and c.study = r.study and c.norm = r.norm and c.epsilon = r.epsilon and c.name = r.name
    left join certified_means m on m.study = r.study and m.name = trained_as(r.name, r.role)
), placed as (
    select *, if(is_ranked, rank() over (in_order order by accuracy desc), null) as rank,
           if(is_ranked, first_value(name) over (in_order order by accuracy desc, position), null) as first_name,
           if(is_ranked, first_value(accuracy) over (in_order order by accuracy desc, position), null)
               as first_accuracy,
           greatest(least_difference, first_value(least_difference) over (in_order order by accuracy desc, position))
               as least_to_first
    from joined window in_order as (partition by study, norm, epsilon, is_ranked)
), of_images as (  -- of one seed: the paired interval of the difference to the first
    select p.study, p.norm, p.epsilon, p.name,
           paired_low(
               count(*) filter (f.is_right and not o.is_right), count(*) filter (o.is_right and not f.is_right),
               count(*)
           ) as low
    from placed p
    join robust_images f
        on f.study = p.study and f.norm = p.norm and f.epsilon = p.epsilon and f.name = p.first_name
    join robust_images o
        on o.study = p.study and o.norm = p.norm and o.epsilon = p.epsilon and o.name = p.name
        and o.seed = f.seed and o.image_id = f.image_id
    where p.of_seeds = 1 and p.is_ranked
    group by p.study, p.norm, p.epsilon, p.name
)
select p.* exclude (first_name, first_accuracy, least_to_first, position),
       case when not p.is_ranked then null
            when p.name = p.first_name then 'first'
            when if(p.of_seeds = 1, i.low <= 0, first_accuracy - accuracy <= least_to_first) then 'tied'
            when if(p.of_seeds = 1, i.low > 0, first_accuracy - accuracy > least_to_first) then 'below' end as first,
       p.position
from placed p
left join of_images i on i.study = p.study and i.norm = p.norm and i.epsilon = p.epsilon and i.name = p.name
order by p.study, p.norm, p.epsilon, p.is_ranked desc, p.accuracy desc nulls last, p.position;

-- Of each norm the radius that is printed: the one that most kinds of attack are planned for, and of several the
-- middle one (the lower of two).
create view printed_threat_models as
with most as (
    select * from threat_models qualify attacks = max(attacks) over (partition by study, norm)
)
select study, norm, quantile_disc(epsilon, 0.5) as epsilon from most group by study, norm;

-- What is said first of each seed's network, wherever networks are listed; shares of images, not in per cent.
--   robust/..., credit/...    at each norm and radius where all attacks are there
--   certified/...             at the study's radii
create view headline as
with shares as (
    select study, name, seed, 1 as part, 'robust/' || norm || '_' || epsilon_text(epsilon) as metric, accuracy / 100 as value
    from robust where is_complete
    union all
    select c.study, c.name, c.seed, 2, 'credit/' || c.norm || '_' || epsilon_text(c.epsilon), c.credit / 100
    from credit c
    join robust r on r.study = c.study and r.name = c.name and r.seed = c.seed and r.norm = c.norm and r.epsilon = c.epsilon
    where c.access = 'robust' and r.is_complete
    union all
    select study, name, seed, 3, 'certified/l2_' || format('{:g}', certified_radius), accuracy / 100
    from certified_accuracy
)
from shares order by study, name, seed, part, metric;
