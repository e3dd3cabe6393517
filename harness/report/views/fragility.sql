-- Fragility: how little it takes to undo an attack on the very network that it was made on.

-- What is left of each attack's images, for the network of each seed. Shares of its test images:
--   fooled      share that the network gives another class than their clean images
--   rounded, noisy, bfloat16    of those (fooled_images), the share that fools it still: after rounding to 256
--       levels, after adding N(0, .02), and where the network computes in bfloat16
-- Each with Wilson's 95 % interval over the images (*_low, *_high).
create view fragility as
with counted as (
    select study, name, method, seed, attack, epsilon, count(*) as images,
           count(*) filter (fooled) as fooled_images,
           if(count(rounded_predicted) > 0, count(*) filter (fooled and rounded_predicted <> predicted), null)
               as rounded_images,
           if(count(noisy_predicted) > 0, count(*) filter (fooled and noisy_predicted <> predicted), null)
               as noisy_images,
           if(count(bfloat16_predicted) > 0, count(*) filter (fooled and bfloat16_predicted <> predicted), null)
               as bfloat16_images
    from (select *, adversarial_predicted <> predicted as fooled from attack where split = 'test')
    group by study, name, method, seed, attack, epsilon
), planned_attacks as (  -- the black box's attacks are made on the base network of the seed
    select study, 'base' as name, 'base' as method, seed, attack, epsilon,
           any_value(attack_title) as attack_title, min(position) as position
    from planned where access = 'black_box' and split = 'test' and not stage
    group by study, seed, attack, epsilon
)
select s.study, s.dataset, p.name, p.method, p.seed, p.attack, p.epsilon, p.attack_title,
       coalesce(c.images, 0) as images, c.fooled_images,
       100 * c.fooled_images / c.images as fooled,
       wilson_low(c.fooled_images, c.images) as fooled_low,
       wilson_high(c.fooled_images, c.images) as fooled_high,
       100 * c.rounded_images / nullif(c.fooled_images, 0) as rounded,
       wilson_low(c.rounded_images, nullif(c.fooled_images, 0)) as rounded_low,
       wilson_high(c.rounded_images, nullif(c.fooled_images, 0)) as rounded_high,
       100 * c.noisy_images / nullif(c.fooled_images, 0) as noisy,
       wilson_low(c.noisy_images, nullif(c.fooled_images, 0)) as noisy_low,
       wilson_high(c.noisy_images, nullif(c.fooled_images, 0)) as noisy_high,
       100 * c.bfloat16_images / nullif(c.fooled_images, 0) as bfloat16,
       wilson_low(c.bfloat16_images, nullif(c.fooled_images, 0)) as bfloat16_low,
       wilson_high(c.bfloat16_images, nullif(c.fooled_images, 0)) as bfloat16_high,
       p.position
from planned_attacks p
join studies s on s.study = p.study
left join counted c
    on c.study = p.study and c.name = p.name and c.seed = p.seed
    and c.attack = p.attack and c.epsilon is not distinct from p.epsilon
order by s.study, p.position;

-- Fragility, the mean over the seeds that are measured. With a t interval from the standard deviation between them;
-- of one seed Wilson's over the images. fooled_images: of all seeds together.
create view fragility_over_seeds as
select study, any_value(dataset) as dataset, name, any_value(method) as method, attack, epsilon,
       any_value(attack_title) as attack_title, count(fooled) as seeds, of_seeds, max(images) as images,
       sum(fooled_images)::bigint as fooled_images,
       avg(fooled) as fooled, seeds_low(fooled, of_seeds, fooled_low) as fooled_low,
       seeds_high(fooled, of_seeds, fooled_high) as fooled_high,
       avg(rounded) as rounded, seeds_low(rounded, of_seeds, rounded_low) as rounded_low,
       seeds_high(rounded, of_seeds, rounded_high) as rounded_high,
       avg(noisy) as noisy, seeds_low(noisy, of_seeds, noisy_low) as noisy_low,
       seeds_high(noisy, of_seeds, noisy_high) as noisy_high,
       avg(bfloat16) as bfloat16, seeds_low(bfloat16, of_seeds, bfloat16_low) as bfloat16_low,
       seeds_high(bfloat16, of_seeds, bfloat16_high) as bfloat16_high,
       min(position) as position
from fragility join (select study, len(seeds) as of_seeds from studies) using (study)
group by study, name, attack, epsilon, of_seeds
order by study, position;
