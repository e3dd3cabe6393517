-- Curves over a radius, in place of one threshold.

-- Robust accuracy of each seed's network within every radius up to half as much again as the study's largest: right
-- on the clean image, and no change found within the radius that fools. An upper bound, most of all at radii for
-- which no attack was made.
create view robustness_curve as
with tops as (
    select study, norm, 1.5 * max(epsilon) as top from threat_models group by study, norm
), radii as (
    select study, norm, top * step / 60 as epsilon from tops, (select unnest(range(61)) as step)
)
select r.study, s.dataset, r.norm, r.epsilon, n.name, n.method, n.role, n.title, c.seed, count(*) as images,
       100 * avg((c.is_right and not coalesce(
           within(in_norm(r.norm, c.l0, c.l1, c.l2, c.linf), r.norm, r.epsilon), false))::int) as accuracy,
       any_value(n.position) as position
from radii r
join studies s on s.study = r.study
join smallest_change c on c.study = r.study
join networks n on n.study = c.study and n.name = c.name and n.seed = c.seed
group by r.study, s.dataset, r.norm, r.epsilon, n.name, n.method, n.role, n.title, c.seed
order by r.study, r.norm, position, r.epsilon;

-- Effectiveness of each attack on the base networks against the bound: the share of the test images that it fools
-- with a mean l1 change of at most tau times the image's own sigma (k as in Table III, where tau is 1).
create view effectiveness_curve as
with own as (
    select b.study, b.image_id, sigma(b.distance, s.effectiveness_k) as sigma
    from bound b join studies s on s.study = b.study and s.neighbours = b.neighbours
    where b.split = 'test'
), made as (
    select a.study, a.name, a.seed, a.attack, a.epsilon, a.adversarial_predicted <> a.predicted as is_fooled,
           a.mean_l1 / nullif(own.sigma, 0) as ratio
    from attack a join own on own.study = a.study and own.image_id = a.image_id where a.split = 'test'
), taus as (select unnest(range(81)) / 20 as tau)
select e.study, e.dataset, e.name, e.seed, e.attack, e.epsilon, e.attack_title, t.tau, count(*) as images,
       100 * avg((m.is_fooled and m.ratio <= t.tau)::int) as effective, any_value(e.position) as position
from effectiveness e
cross join taus t
join made m
    on m.study = e.study and m.name = e.name and m.seed = e.seed and m.attack = e.attack
    and m.epsilon is not distinct from e.epsilon
group by e.study, e.dataset, e.name, e.seed, e.attack, e.epsilon, e.attack_title, t.tau
order by e.study, position, e.seed, t.tau;
