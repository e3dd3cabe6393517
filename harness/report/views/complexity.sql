-- Cost in seconds (V-F): making the training images, and training on them.

-- Each network of the bound's defense and of training on adversarial images, in each seed.
--   images        training images of the study
--   making_s      of attacking all of them on the base network; 0 for the bound, whose images are drawn while it is
--                 trained (the search for neighbours is not in it: `harness benchmark bound` measures that)
--   training_s    of all epochs, each with its test on the clean test images
--   total_ms_per_image    both, in milliseconds a training image
create view complexity as
with sizes as (
    select study, count(*) as images from bound where split = 'train' and neighbours = 'other_class' group by study
), making as (
    select study, seed, attack, epsilon, sum(attack_s) as seconds from attack where split = 'train'
    group by study, seed, attack, epsilon
), trained as (
    select study, name, method, seed, any_value(k) as k, any_value(n) as n, any_value(training_attack) as training_attack,
           any_value(training_epsilon) as training_epsilon, max(epoch) as epochs,
           sum(epoch_s) filter (epoch > 0) as training_s, any_value(device) as device, max(world_size) as workers
    from training where method in ('imperceptible_bound', 'adversarial_images')
    group by study, name, method, seed
), both_parts as (
    select t.*, n.title, n.position, z.images,
           if(t.method = 'imperceptible_bound', 0, m.seconds) as making_s
    from trained t
    join networks n
        on n.study = t.study and n.name = t.name and n.seed = t.seed and n.role in ('defense', 'baseline')
    join sizes z on z.study = t.study
    left join making m
        on m.study = t.study and m.seed = t.seed and m.attack = t.training_attack
        and same_epsilon(m.epsilon, t.training_epsilon)
)
select b.study, s.dataset, s.architecture, b.images, b.name, b.method, b.title, b.seed, b.k, b.n, b.training_attack, b.training_epsilon,
       b.epochs, b.making_s, b.training_s, b.making_s + b.training_s as total_s,
       1000 * (b.making_s + b.training_s) / b.images as total_ms_per_image, b.device, b.workers, b.position
from both_parts b join studies s on s.study = b.study
order by b.study, b.position, b.seed;

-- How the seconds grow with the training images, over studies that differ in their number (dataset.train_limit): the
-- slope of log seconds over log images by least squares, with its 95 % t interval, of three sizes or more. 1: in
-- proportion to the images; a part that takes no time has none.
create view complexity_growth as
with parts as (
    unpivot (select dataset, architecture, study, images, name, method, title, seed, device, workers, epochs, position, making_s,
                    training_s, total_s from complexity)
    on making_s, training_s, total_s into name part value seconds
), fitted as (
    select dataset, architecture, name, any_value(method) as method, any_value(title) as title, device, workers, epochs,
           replace(part, '_s', '') as part, count(distinct images) as sizes, count(*) as points,
           min(images) as fewest, max(images) as most, avg(seconds) filter (images = largest) as seconds_of_most,
           regr_slope(ln(seconds), ln(images)) as slope,
           sqrt(greatest(0, regr_syy(ln(seconds), ln(images))
                - regr_slope(ln(seconds), ln(images)) * regr_sxy(ln(seconds), ln(images)))
                / nullif(count(*) - 2, 0) / nullif(regr_sxx(ln(seconds), ln(images)), 0)) as error,
           min(position) as position
    from (select *, max(images) over (partition by dataset, architecture) as largest from parts where seconds > 0)
    group by dataset, architecture, name, device, workers, epochs, part
    having count(distinct images) >= 3
)
select dataset, architecture, name, method, title, part, sizes, points, fewest, most, seconds_of_most, slope, error,
       slope - t_975(points - 2) * error as low, slope + t_975(points - 2) * error as high, device, workers, epochs,
       position
from fitted order by dataset, architecture, position, part;

-- Adversarial training against the bound's defense, in total seconds over four sizes or more: difference of the slopes
-- with its 95 % interval (t, the degrees of freedom of both), above 0 where the bound's grows more slowly as V-F says;
-- ratio: adversarial training's seconds over the bound's, at the most images.
create view complexity_claim as
select a.dataset, a.architecture, a.name, a.title, b.name as bound_name, b.title as bound_title, a.sizes, a.fewest, a.most,
       a.slope, b.slope as bound_slope, a.slope - b.slope as difference,
       a.slope - b.slope - t_975(a.points + b.points - 4) * sqrt(pow(a.error, 2) + pow(b.error, 2)) as low,
       a.slope - b.slope + t_975(a.points + b.points - 4) * sqrt(pow(a.error, 2) + pow(b.error, 2)) as high,
       a.seconds_of_most / b.seconds_of_most as ratio, a.device, a.position, b.position as bound_position
from complexity_growth a
join complexity_growth b
    on b.dataset = a.dataset and b.architecture = a.architecture and b.part = 'total' and b.device = a.device and b.workers = a.workers
    and b.method = 'imperceptible_bound'
where a.part = 'total' and a.method = 'adversarial_images' and least(a.sizes, b.sizes) >= 4
order by a.dataset, a.architecture, a.position, b.position;
