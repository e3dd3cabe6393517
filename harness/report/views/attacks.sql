-- The attacks: Table III, Fig. 5.

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

-- Table III, see effectiveness.
create view table3 as from effectiveness;

-- Table III, the mean over the seeds that are measured.
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
